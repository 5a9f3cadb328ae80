"""What some layers have in place of attention: a state that goes from token to token."""

from __future__ import annotations

from dataclasses import replace

from tinyllm.graph.graph import GraphBuilder, Value
from tinyllm.models.decoder.attention import Batch, Mixed
from tinyllm.models.decoder.config import DecoderConfig, GatedDeltaConfig, ShortConvConfig
from tinyllm.models.decoder.parts import normed, projection


def short_convolution(g: GraphBuilder, config: DecoderConfig, layer: ShortConvConfig, x: Value, batch: Batch) -> Mixed:
    """A convolution between two gates (LFM2)."""
    size = config.hidden_size
    with g.scope("conv"):
        product = projection(g, "in_proj", x, 3 * size, size, layer.bias)
        b, c, inner = g.split(product, sizes=(size,) * 3)
        convolved = _convolved(g, g.mul(b, inner), size, layer.width, batch, "none", layer.bias)
        return Mixed(g.mul(c, convolved), "conv.out_proj", size, layer.bias)


def gated_delta(g: GraphBuilder, config: DecoderConfig, layer: GatedDeltaConfig, x: Value, batch: Batch) -> Mixed:
    """The gated delta rule, its output normed by head and gated (Qwen3-Next)."""
    heads, value_heads, dim, value_dim = layer.num_heads, layer.num_value_heads, layer.head_dim, layer.value_head_dim
    keys, values = heads * dim, value_heads * value_dim
    with g.scope("linear_attn"):
        mixed = projection(g, "in_proj_qkv", x, 2 * keys + values, config.hidden_size)
        z = projection(g, "in_proj_z", x, values, config.hidden_size)
        a, b = (projection(g, f"in_proj_{name}", x, value_heads, config.hidden_size) for name in ("a", "b"))
        mixed = _convolved(g, mixed, 2 * keys + values, layer.width, batch, "silu", False)
        q, k, v = g.split(mixed, sizes=(keys, keys, values))
        (q,), (k,), (v,), (z,) = (
            g.split_heads(y, heads=(n,)) for y, n in ((q, heads), (k, heads), (v, value_heads), (z, value_heads))
        )
        state = g.state("delta", (value_heads, dim, value_dim), "float32")
        y, after = g.gated_delta(
            *(q, k, v, a, b, state, *(g.weight(name, (value_heads,), "float32") for name in ("A_log", "dt_bias"))),
            *(batch.q_start, batch.kv_len, batch.state_rows),
            **({"tiled": True} if layer.tiled else {}),
        )
        g.update(state, after)
        y = normed(g, replace(config.norm, offset=0.0), "norm", y, value_dim)
        return Mixed(g.merge_heads(g.swiglu(z, y)), "linear_attn.out_proj", values, False)


def _convolved(
    g: GraphBuilder, x: Value, channels: int, width: int, batch: Batch, activation: str, bias: bool
) -> Value:
    state = g.state("conv", (channels, width - 1))
    with g.scope("conv1d"):
        weight = g.weight("weight", (channels, width))
        offset = g.weight("bias", (channels,)) if bias else None
    y, after = g.short_conv(
        *(x, state, weight, batch.q_start, batch.kv_len, batch.state_rows), bias=offset, activation=activation
    )
    g.update(state, after)
    convolved: Value = y
    return convolved
