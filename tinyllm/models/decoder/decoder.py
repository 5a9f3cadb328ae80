"""A decoder-only transformer as a graph: one builder for every family, layer by layer as the config says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.graph.graph import Graph, GraphBuilder, Value
from tinyllm.models.decoder.attention import Batch, Mixed, attention
from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    GatedDeltaConfig,
    RopeConfig,
    ShortConvConfig,
)
from tinyllm.models.decoder.layer_input import add_layer_input, layer_inputs
from tinyllm.models.decoder.mlp import feed_forward
from tinyllm.models.decoder.parts import normed, projection, scaled
from tinyllm.models.decoder.recurrent import gated_delta, short_convolution
from tinyllm.spec.op_spec import OpSpec


def decoder(
    config: DecoderConfig, specs: Mapping[str, OpSpec], dtype: str = "float32", kv_cache_dtype: str = ""
) -> Graph:
    """The graph of a decoder.

    Weights have the names of Hugging Face's llama, and those of its other families where llama has none: `q_norm`
    (Qwen3), `post_self_attn_layernorm` and `post_mlp_layernorm` (GLM-4), `mlp.experts` (Qwen3-MoE; stacks
    `[experts, N, K]`). A family's tensor rules say where they are in its files.

    kv_cache_dtype: of the pages of keys and values; empty: that of activations.

    Inputs: tokens [T], positions [T, 1], slots [T], q_start [B1], kv_len [B], block_table [B, M], logit_rows [R], all
    int32; lengths [T, 1] where some rope goes by the length of the sequence.
    Output: logits [R, vocab_size].
    """
    g = GraphBuilder(specs, dtype)
    tokens = g.input("tokens", ("T",))
    positions = g.input("positions", ("T", 1))
    logit_rows = g.input("logit_rows", ("R",))
    embed_tokens = g.weight("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
    recurrent = any(not isinstance(layer.attention, AttentionConfig) for layer in config.layers)
    batch = Batch(
        g.input("slots", ("T",)),
        g.input("q_start", ("B1",)),
        g.input("kv_len", ("B",)),
        g.input("block_table", ("B", "M")),
        _angles(g, config, positions),
        kv_cache_dtype,
        g.input("state_rows", ("B",)) if recurrent else None,
    )
    x = scaled(g, g.embedding(tokens, embed_tokens), config.embedding_multiplier)
    inputs = layer_inputs(g, config, tokens, x)
    for number, layer_input in enumerate(inputs):
        rows = logit_rows if number == config.num_layers - 1 else None
        with g.scope(f"model.layers.{number}"):
            x = _layer(g, config, number, x, layer_input, batch, rows)
    x = normed(g, config.norm, "model.norm", x, config.hidden_size)
    return g.build(_logits(g, config, x, embed_tokens))


def _angles(g: GraphBuilder, config: DecoderConfig, positions: Value) -> dict[RopeConfig, tuple[Value, Value]]:
    """Cosines and sines for each rope that queries or keys of some layer have."""
    attending = [layer.attention for layer in config.layers if isinstance(layer.attention, AttentionConfig)]
    ropes = dict.fromkeys(
        rope for each in attending if each.rope is not None for rope in (each.rope, each.rope.of_keys)
    )
    by_length = any(rope.scaling.by_length for rope in ropes)
    lengths = {"lengths": g.input("lengths", ("T", 1))} if by_length else {}
    return {
        rope: g.rope_angles(
            positions,
            dims=rope.dims,
            base=rope.theta,
            scaling=rope.scaling,
            **(lengths if rope.scaling.by_length else {}),
            **_growth(rope),
        )
        for rope in ropes
    }


def _growth(rope: RopeConfig) -> dict[str, Any]:
    if rope.query_log_period is None:
        return {}
    return {"log_scale": rope.query_log_scale, "log_period": rope.query_log_period}


def _logits(g: GraphBuilder, config: DecoderConfig, x: Value, embed_tokens: Value) -> Value:
    plain = config.logit_multiplier == 1 and config.logit_softcap is None
    name = "logits" if plain else "lm_head"
    if config.tie_word_embeddings:
        logits: Value = g.linear(x, embed_tokens, name=name)
    else:
        logits = projection(g, "lm_head", x, config.vocab_size, config.hidden_size, config.head_bias, name)
    logits = scaled(g, logits, config.logit_multiplier)
    return logits if config.logit_softcap is None else g.softcap(logits, cap=config.logit_softcap)


def _mixed(g: GraphBuilder, config: DecoderConfig, number: int, x: Value, batch: Batch) -> Mixed:
    layer = config.layers[number].attention
    if isinstance(layer, ShortConvConfig):
        return short_convolution(g, config, layer, x, batch)
    if isinstance(layer, GatedDeltaConfig):
        return gated_delta(g, config, layer, x, batch)
    return attention(g, config, layer, number, x, batch)


def _layer(
    g: GraphBuilder,
    config: DecoderConfig,
    number: int,
    x: Value,
    layer_input: Value | None,
    batch: Batch,
    rows: Value | None,
) -> Value:
    """One layer. In the last one only the rows whose logits are asked for go on after attention."""
    layer, hidden_size = config.layers[number], config.hidden_size

    def norm(name: str, y: Value, there: bool) -> Value:
        return normed(g, config.norm, name, y, hidden_size) if there else y

    first = norm("input_layernorm", x, layer.norms != "after")
    mixed = _mixed(g, config, number, first, batch)
    attended = mixed.value
    if rows is not None:
        x, attended = g.embedding(rows, x), g.embedding(rows, attended)
        first = g.embedding(rows, first) if layer.parallel else first
        layer_input = None if layer_input is None else g.embedding(rows, layer_input)
    attended = projection(g, mixed.projection, attended, hidden_size, mixed.size, mixed.bias)
    attended = norm("post_self_attn_layernorm", attended, layer.norms != "before")
    x = g.add(x, scaled(g, attended, layer.residual_multiplier))
    second = first if layer.parallel else norm("post_attention_layernorm", x, layer.norms != "after")
    fed = feed_forward(g, layer.mlp, second, hidden_size)
    if layer.experts is not None:
        given, routed = norm("pre_feedforward_layernorm_2", x, True), norm("router_norm", x, True)
        chosen = feed_forward(g, layer.experts, given, hidden_size, routed)
        fed = norm("post_feedforward_layernorm_1", fed, True)
        fed = g.add(fed, norm("post_feedforward_layernorm_2", chosen, True))
    fed = norm("post_mlp_layernorm", fed, layer.norms != "before")
    out: Value = g.add(x, scaled(g, fed, layer.residual_multiplier))
    if layer_input is not None and config.layer_input is not None:
        out = add_layer_input(g, config, config.layer_input, out, layer_input)
    return g.mul(out, g.weight("layer_scalar", (1,))) if layer.scaled else out
