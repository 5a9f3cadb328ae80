"""The feed-forward part of a layer: one, or a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tinyllm.graph.graph import GraphBuilder, Value
from tinyllm.models.decoder.config import Activation, MlpConfig, MoeConfig
from tinyllm.models.decoder.parts import projection, scaled


def feed_forward(
    g: GraphBuilder, config: MlpConfig | MoeConfig, x: Value, hidden_size: int, routed: Value | None = None
) -> Value:
    """`[T, hidden_size]` of x `[T, hidden_size]`. routed: what a router reads; None: x."""
    with g.scope("mlp"):
        if isinstance(config, MoeConfig):
            return _mixture(g, config, x, hidden_size, x if routed is None else routed)
        return _mlp(g, config, x, hidden_size)


def _mlp(g: GraphBuilder, config: MlpConfig, x: Value, hidden_size: int) -> Value:
    up = partial(projection, g, x=x, n=config.size, k=hidden_size, bias=config.bias)
    gate = up(name="gate_proj") if config.gated else None
    inner = activated(g, config.activation, gate, up(name="up_proj"))
    return projection(g, "down_proj", inner, hidden_size, config.size, config.bias)


def activated(g: GraphBuilder, activation: Activation, gate: Value | None, up: Value) -> Value:
    """`activation(gate) * up`, or `activation(up)` without a gate."""
    gelu = {"approximate": "tanh" if activation == "gelu_tanh" else "none"}
    ways: dict[tuple[bool, bool], Callable[[], Any]] = {
        (True, True): lambda: g.swiglu(gate, up),
        (True, False): lambda: g.silu(up),
        (False, True): lambda: g.geglu(gate, up, **gelu),
        (False, False): lambda: g.gelu(up, **gelu),
    }
    inner: Value = ways[activation == "silu", gate is not None]()
    return inner


def _mixture(g: GraphBuilder, config: MoeConfig, x: Value, hidden_size: int, routed: Value) -> Value:
    experts, size = config.num_experts, config.size
    with g.scope("gate"):
        correction = g.weight("e_score_correction_bias", (experts,), "float32") if config.correction_bias else None
        expert_scale = g.weight("per_expert_scale", (experts,), "float32") if config.expert_scale else None
    logits = scaled(
        g, projection(g, "gate", routed, experts, hidden_size, config.router_bias), config.router_multiplier
    )
    chosen, weights = g.moe_router(
        logits,
        bias=correction,
        expert_scale=expert_scale,
        top_k=config.top_k,
        score=config.score,
        normalize=config.normalize,
        scaling=config.scaling,
        groups=config.groups,
        groups_kept=config.groups_kept,
    )
    shapes = {"gate_proj": (size, hidden_size), "up_proj": (size, hidden_size), "down_proj": (hidden_size, size)}
    with g.scope("experts"):
        stacks = [g.weight(f"{name}.weight", (experts, *shape)) for name, shape in shapes.items()]
        biases = {
            name.replace("proj", "bias"): g.weight(f"{name}.bias", (experts, shape[0])) if config.expert_bias else None
            for name, shape in shapes.items()
        }
        y: Value = g.moe_experts(
            *(x, chosen, weights, *stacks),
            **biases,
            activation=config.activation,
            limit=config.limit,
            alpha=config.alpha,
            up_offset=config.up_offset,
        )
    if config.shared_size:
        y = g.add(y, _shared(g, config, x, hidden_size))
    return y


def _shared(g: GraphBuilder, config: MoeConfig, x: Value, hidden_size: int) -> Value:
    """The expert that every token goes through."""
    with g.scope("shared_expert"):
        y = _mlp(g, MlpConfig(config.shared_size, config.activation), x, hidden_size)
    if not config.shared_gate:
        return y
    gate = g.sigmoid(projection(g, "shared_expert_gate", x, 1, hidden_size))
    gated: Value = g.mul(y, gate)
    return gated
