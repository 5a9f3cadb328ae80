"""The attention of a layer, over the pages of a cache."""

from __future__ import annotations

from dataclasses import dataclass

from tinyllm.graph.graph import GraphBuilder, Value
from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, RopeConfig
from tinyllm.models.decoder.parts import normed, projection


@dataclass(frozen=True)
class Batch:
    """The step's inputs that layers use; the token axis `T` is flat, only attention knows sequences.

    angles: cosines and sines by rope. state_rows: None where no layer has a recurrent state.
    """

    slots: Value
    q_start: Value
    kv_len: Value
    block_table: Value
    angles: dict[RopeConfig, tuple[Value, Value]]
    kv_cache_dtype: str
    state_rows: Value | None = None


@dataclass(frozen=True)
class Mixed:
    """What each token took from those before it, `[T, size]`, and the projection that it goes through to be added to
    the residual."""

    value: Value
    projection: str
    size: int
    bias: bool


def attention(g: GraphBuilder, config: DecoderConfig, layer: AttentionConfig, x: Value, batch: Batch) -> Mixed:
    """What each token attends to."""
    kv_heads, dim = layer.num_kv_heads, layer.head_dim
    with g.scope("self_attn"):
        q, k, v = (
            projection(g, f"{name}_proj", x, heads * dim, config.hidden_size, layer.qkv_bias)
            for name, heads in (("q", layer.num_heads), ("k", kv_heads), ("v", kv_heads))
        )
        if layer.qk_norm == "whole":
            q = normed(g, config.norm, "q_norm", q, layer.num_heads * dim)
            k = normed(g, config.norm, "k_norm", k, kv_heads * dim)
        (q,), (k,), (v,) = (
            g.split_heads(y, heads=(heads,)) for y, heads in ((q, layer.num_heads), (k, kv_heads), (v, kv_heads))
        )
        if layer.qk_norm == "head":
            q, k = normed(g, config.norm, "q_norm", q, dim), normed(g, config.norm, "k_norm", k, dim)
        if layer.rope is not None:
            turns = {"traditional": True} if layer.rope.traditional else {}
            q = g.rope_rotate(q, *batch.angles[layer.rope], **turns)
            k = g.rope_rotate(k, *batch.angles[layer.rope.of_keys], **turns)
        if layer.qk_norm == "rotated":
            q, k = normed(g, config.norm, "q_norm", q, dim), normed(g, config.norm, "k_norm", k, dim)
        k_state, v_state = (g.state(name, (kv_heads, "page", dim), batch.kv_cache_dtype) for name in ("k", "v"))
        k_pages, v_pages = g.kv_append(k_state, v_state, k, v, batch.slots)
        g.update(k_state, k_pages)
        g.update(v_state, v_pages)
        attended: Value = g.paged_attention(
            *(q, k_pages, v_pages, batch.q_start, batch.kv_len, batch.block_table),
            sinks=g.weight("sinks", (layer.num_heads,)) if layer.sinks else None,
            scale=layer.scale,
            window=layer.window,
            softcap=layer.softcap,
        )
        size = layer.num_heads * dim
        if layer.gated == "head":
            gate = projection(g, "gate_proj", x, layer.num_heads, config.hidden_size)
            (gate,) = g.split_heads(g.sigmoid(gate), heads=(layer.num_heads,))
            attended = g.mul(attended, gate)
        merged: Value = g.merge_heads(attended)
        if layer.gated == "whole":
            gate = projection(g, "q_gate_proj", x, size, config.hidden_size, layer.qkv_bias)
            merged = g.mul(merged, g.sigmoid(gate))
        return Mixed(merged, "self_attn.o_proj", size, layer.o_bias)
