"""What all parts of a layer are made of: products and norms with the weights that belong to them."""

from __future__ import annotations

from tinyllm.graph.graph import GraphBuilder, Value
from tinyllm.models.decoder.config import NormConfig


def projection(g: GraphBuilder, name: str, x: Value, n: int, k: int, bias: bool = False, node: str = "") -> Value:
    """`x W^T + b` with the weights `name.weight` `[n, k]` and, where there is one, `name.bias` `[n]`."""
    with g.scope(name):
        weight = g.weight("weight", (n, k))
        offset = g.weight("bias", (n,)) if bias else None
    product: Value = g.linear(x, weight, bias=offset, name=node or f"{name}.linear")
    return product


def normed(g: GraphBuilder, config: NormConfig, name: str, x: Value, size: int, weighted: bool = True) -> Value:
    """x `[*B, size]` normed, with the weights `name.weight`, or of 1, and, where the norm has one, `name.bias`."""
    with g.scope(name):
        weight = g.weight("weight", (size,), value=None if weighted else 1 - config.offset)
        bias = g.weight("bias", (size,)) if config.bias else None
    if config.kind == "layer":
        y: Value = g.layer_norm(x, weight, bias=bias, eps=config.eps)
    else:
        y = g.rms_norm(x, weight, eps=config.eps, **({"offset": config.offset} if config.offset else {}))
    return y


def scaled(g: GraphBuilder, x: Value, factor: float) -> Value:
    """x times a number."""
    if factor == 1:
        return x
    y: Value = g.scale(x, factor=factor)
    return y
