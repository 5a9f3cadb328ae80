"""What layers read beside the residual: an input for each token and layer (Gemma 4's per-layer embeddings)."""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm.graph.graph import GraphBuilder, Value
from tinyllm.models.decoder.config import DecoderConfig, LayerInputConfig
from tinyllm.models.decoder.mlp import activated
from tinyllm.models.decoder.parts import normed, projection, scaled


def layer_inputs(g: GraphBuilder, config: DecoderConfig, tokens: Value, x: Value) -> Sequence[Value | None]:
    """The input of each layer, `[T, size]`, of tokens `[T]` and their embeddings x `[T, hidden_size]`; None: it has
    none."""
    layers, its = config.num_layers, config.layer_input
    if its is None:
        return [None] * layers
    table = g.weight("model.embed_tokens_per_layer.weight", (config.vocab_size, layers * its.size))
    embedded = scaled(g, g.embedding(tokens, table), its.multiplier)
    projected = projection(g, "model.per_layer_model_projection", x, layers * its.size, config.hidden_size)
    (by_layer,) = g.split_heads(scaled(g, projected, its.projection_multiplier), heads=(layers,))
    projected = g.merge_heads(normed(g, config.norm, "model.per_layer_projection_norm", by_layer, its.size))
    inputs: tuple[Value, ...] = g.split(scaled(g, g.add(projected, embedded), 0.5**0.5), sizes=(its.size,) * layers)
    return inputs


def add_layer_input(g: GraphBuilder, config: DecoderConfig, its: LayerInputConfig, x: Value, given: Value) -> Value:
    """A layer's output x `[T, hidden_size]` and what it makes of its input `[T, size]`."""
    gate = projection(g, "per_layer_input_gate", x, its.size, config.hidden_size)
    inner = activated(g, its.activation, gate, given)
    y = projection(g, "per_layer_projection", inner, config.hidden_size, its.size)
    added: Value = g.add(x, normed(g, config.norm, "post_per_layer_input_norm", y, config.hidden_size))
    return added
