"""The attention of a layer, over the pages of a cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from tinyllm.graph.graph import GraphBuilder, Value
from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, RopeConfig
from tinyllm.models.decoder.parts import normed, projection

Pages = tuple[Value, Value]
"""Of a layer's keys and values, those of this step included."""


@dataclass(frozen=True)
class Batch:
    """The step's inputs that layers use; the token axis `T` is flat, only attention knows sequences.

    angles: cosines and sines by rope. state_rows: None where no layer has a recurrent state. pages: of the layers so
    far that have their own, by number.
    """

    slots: Value
    q_start: Value
    kv_len: Value
    block_table: Value
    angles: dict[RopeConfig, tuple[Value, Value]]
    kv_cache_dtype: str
    state_rows: Value | None = None
    pages: dict[int, Pages] = field(default_factory=dict)


@dataclass(frozen=True)
class Mixed:
    """What each token took from those before it, `[T, size]`, and the projection that it goes through to be added to
    the residual."""

    value: Value
    projection: str
    size: int
    bias: bool


def attention(
    g: GraphBuilder, config: DecoderConfig, layer: AttentionConfig, number: int, x: Value, batch: Batch
) -> Mixed:
    """What each token attends to in a layer, whose number others may name to read its keys and values."""
    with g.scope("self_attn"):
        q = _placed(g, config, layer, "q", _heads(g, config, layer, "q", x), batch)
        if layer.kv_layer is None:
            batch.pages[number] = _appended(g, config, layer, x, batch)
        k_pages, v_pages = batch.pages[number if layer.kv_layer is None else layer.kv_layer]
        attended: Value = g.paged_attention(
            *(q, k_pages, v_pages, batch.q_start, batch.kv_len, batch.block_table),
            sinks=g.weight("sinks", (layer.num_heads,)) if layer.sinks else None,
            scale=layer.scale,
            window=layer.window,
            softcap=layer.softcap,
        )
        size = layer.num_heads * layer.head_dim
        if layer.gated == "head":
            gate = projection(g, "gate_proj", x, layer.num_heads, config.hidden_size)
            (gate,) = g.split_heads(g.sigmoid(gate), heads=(layer.num_heads,))
            attended = g.mul(attended, gate)
        merged: Value = g.merge_heads(attended)
        if layer.gated == "whole":
            gate = projection(g, "q_gate_proj", x, size, config.hidden_size, layer.qkv_bias)
            merged = g.mul(merged, g.sigmoid(gate))
        return Mixed(merged, "self_attn.o_proj", size, layer.o_bias)


def _heads(g: GraphBuilder, config: DecoderConfig, layer: AttentionConfig, name: str, x: Value) -> Value:
    """The projection `q`, `k` or `v` of x, `[T, heads, dim]`."""
    heads = layer.num_heads if name == "q" else layer.num_kv_heads
    y = projection(g, f"{name}_proj", x, heads * layer.head_dim, config.hidden_size, layer.qkv_bias)
    if layer.qk_norm == "whole" and name != "v":
        y = normed(g, config.norm, f"{name}_norm", y, heads * layer.head_dim)
    (parts,) = g.split_heads(y, heads=(heads,))
    split: Value = parts
    return split


def _placed(g: GraphBuilder, config: DecoderConfig, layer: AttentionConfig, name: str, y: Value, batch: Batch) -> Value:
    """Queries or keys, normed by head and rotated."""
    if layer.qk_norm == "head":
        y = normed(g, config.norm, f"{name}_norm", y, layer.head_dim)
    if layer.rope is not None:
        turns = {"traditional": True} if layer.rope.traditional else {}
        y = g.rope_rotate(y, *batch.angles[layer.rope if name == "q" else layer.rope.of_keys], **turns)
    if layer.qk_norm == "rotated":
        y = normed(g, config.norm, f"{name}_norm", y, layer.head_dim)
    return y


def _appended(g: GraphBuilder, config: DecoderConfig, layer: AttentionConfig, x: Value, batch: Batch) -> Pages:
    """The layer's own keys and values in its pages."""
    kv_heads, dim = layer.num_kv_heads, layer.head_dim
    projected = _heads(g, config, layer, "k", x)
    v = projected if layer.v_is_k else _heads(g, config, layer, "v", x)
    k = _placed(g, config, layer, "k", projected, batch)
    if layer.v_norm:
        v = normed(g, config.norm, "v_norm", v, dim, weighted=False)
    k_state, v_state = (g.state(name, (kv_heads, "page", dim), batch.kv_cache_dtype) for name in ("k", "v"))
    k_pages, v_pages = g.kv_append(k_state, v_state, k, v, batch.slots)
    g.update(k_state, k_pages)
    g.update(v_state, v_pages)
    return k_pages, v_pages
