"""A decoder-only transformer as a graph: one builder with flags for every family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyllm.graph.graph import Graph, GraphBuilder, Value
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.spec.op_spec import OpSpec


@dataclass(frozen=True)
class _Batch:
    """The step's inputs that layers use; the token axis `T` is flat, only attention knows sequences."""

    slots: Value
    q_start: Value
    kv_len: Value
    block_table: Value
    cos: Value
    sin: Value
    kv_cache_dtype: str


def decoder(
    config: DecoderConfig, specs: Mapping[str, OpSpec], dtype: str = "float32", kv_cache_dtype: str = ""
) -> Graph:
    """The graph of a decoder. Weights are named as Hugging Face checkpoints of the llama and qwen2 families name them.

    kv_cache_dtype: of the pages of keys and values; empty: that of activations.

    Inputs: tokens [T], positions [T, 1], slots [T], q_start [B1], kv_len [B], block_table [B, M], logit_rows [R], all
    int32.
    Output: logits [R, vocab_size].
    """
    g = GraphBuilder(specs, dtype)
    tokens = g.input("tokens", ("T",))
    positions = g.input("positions", ("T", 1))
    logit_rows = g.input("logit_rows", ("R",))
    embed_tokens = g.weight("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
    cos, sin = g.rope_angles(positions, dims=config.head_dim, base=config.rope_theta, scaling=config.rope_scaling)
    batch = _Batch(
        g.input("slots", ("T",)),
        g.input("q_start", ("B1",)),
        g.input("kv_len", ("B",)),
        g.input("block_table", ("B", "M")),
        cos,
        sin,
        kv_cache_dtype,
    )
    x = g.embedding(tokens, embed_tokens)
    for layer in range(config.num_layers):
        rows = logit_rows if layer == config.num_layers - 1 else None
        with g.scope(f"model.layers.{layer}"):
            x = _layer(g, config, x, batch, rows)
    x = g.rms_norm(x, g.weight("model.norm.weight", (config.hidden_size,)), eps=config.rms_norm_eps)
    head = (
        embed_tokens
        if config.tie_word_embeddings
        else g.weight("lm_head.weight", (config.vocab_size, config.hidden_size))
    )
    return g.build(g.linear(x, head, name="logits"))


def _layer(g: GraphBuilder, config: DecoderConfig, x: Value, batch: _Batch, rows: Value | None) -> Value:
    """One layer. In the last one only the rows whose logits are asked for go on after attention."""
    normed = g.rms_norm(x, g.weight("input_layernorm.weight", (config.hidden_size,)), eps=config.rms_norm_eps)
    attended = _attention(g, config, normed, batch)
    if rows is not None:
        x, attended = g.embedding(rows, x), g.embedding(rows, attended)
    attended = _linear(
        g, "self_attn.o_proj", attended, config.hidden_size, config.num_heads * config.head_dim, config.o_bias
    )
    x = g.add(x, attended)
    normed = g.rms_norm(x, g.weight("post_attention_layernorm.weight", (config.hidden_size,)), eps=config.rms_norm_eps)
    out: Value = g.add(x, _mlp(g, config, normed))
    return out


def _attention(g: GraphBuilder, config: DecoderConfig, x: Value, batch: _Batch) -> Value:
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    with g.scope("self_attn"):
        q, k, v = (
            _linear(g, f"{name}_proj", x, n * dim, config.hidden_size, config.qkv_bias)
            for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        (q,), (k,), (v,) = (
            g.split_heads(q, heads=(heads,)),
            g.split_heads(k, heads=(kv_heads,)),
            g.split_heads(v, heads=(kv_heads,)),
        )
        q, k = g.rope_rotate(q, batch.cos, batch.sin), g.rope_rotate(k, batch.cos, batch.sin)
        k_state, v_state = (g.state(name, (kv_heads, "page", dim), batch.kv_cache_dtype) for name in ("k", "v"))
        k_pages, v_pages = g.kv_append(k_state, v_state, k, v, batch.slots)
        g.update(k_state, k_pages)
        g.update(v_state, v_pages)
        attended: Value = g.paged_attention(q, k_pages, v_pages, batch.q_start, batch.kv_len, batch.block_table)
        merged: Value = g.merge_heads(attended)
        return merged


def _mlp(g: GraphBuilder, config: DecoderConfig, x: Value) -> Value:
    with g.scope("mlp"):
        gate = _linear(g, "gate_proj", x, config.intermediate_size, config.hidden_size, config.mlp_bias)
        up = _linear(g, "up_proj", x, config.intermediate_size, config.hidden_size, config.mlp_bias)
        return _linear(
            g, "down_proj", g.swiglu(gate, up), config.hidden_size, config.intermediate_size, config.mlp_bias
        )


def _linear(g: GraphBuilder, name: str, x: Value, n: int, k: int, bias: bool) -> Value:
    with g.scope(name):
        product: Value = g.linear(x, g.weight("weight", (n, k)), bias=g.weight("bias", (n,)) if bias else None)
        return product
