"""How the nodes of each op become records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from tinyllm.plugins import BoundNode
from tinyllm_native import parallel
from tinyllm_native.elements import gelu_numbers, swiglu_numbers
from tinyllm_native.linear import EXACT, ROUNDED, sizes_of
from tinyllm_native.link import Linker
from tinyllm_native.moe import PROJECTIONS, SCORES, of_settings
from tinyllm_native.rope import frequencies
from tinyllm_native.values import NotLinked, Size, Value

LIMBS = {"native": EXACT, "rounded": ROUNDED}
"""By the kernel's name the bytes of the integers that activations become."""


def _need(value: Value | None) -> Value:
    if value is None:
        raise NotLinked("an input is not given")
    return value


def _of_axes(value: Value | None, axes: int) -> Value:
    """A value whose rows have so many axes: sizes of the records say no others."""
    value = _need(value)
    if len(value.tail) != axes:
        raise NotLinked(f"rows of {len(value.tail)} axes")
    return value


def _times(size: Size, factor: int) -> Size:
    return size * factor if isinstance(size, int) else (size[0], size[1] * factor)


def _by_last_axis(value: Value) -> Value:
    """A value with a row for each place along all axes but the last."""
    if len(value.tail) == 1:
        return value
    if not value.tail or value.stride != value.columns * value.itemsize:
        raise NotLinked("rows that are none, or lie apart")
    *several, last = value.tail
    return replace(value, rows=_times(value.rows, prod(several)), tail=(last,), stride=last * value.itemsize)


def _attribute(node: BoundNode, name: str) -> Any:
    return node.call.attributes[name] if node.call else None


def _linear(b: Linker, node: BoundNode) -> None:
    x, weight, bias = _by_last_axis(_need(b.source(node, "x"))), b.weight(node), b.source(node, "bias")
    if weight is None:
        raise NotLinked("linear: a weight that is no constant")
    rows, columns = sizes_of(b.run.constants[node.sources[node.inputs.index("weight")]])
    y = _by_last_axis(b.new(node))
    limbs = LIMBS[node.kernel.rpartition(":")[2]]
    b.add("linear", [x, weight, bias, y], [x.rows, columns, rows, x.stride, y.stride, x.number, y.number, limbs])


def _embedding(b: Linker, node: BoundNode) -> None:
    ids, weight = _of_axes(b.source(node, "ids"), 0), b.weight(node)
    table = None if weight is not None else _of_axes(b.source(node, "weight"), 1)
    y = b.new(node)
    sizes: list[Size] = [ids.rows, y.columns, y.stride, y.number, table.stride if table else 0]
    b.add("embedding", [ids, weight, y, table], sizes)


def _elements(
    *names: str, numbers: Callable[..., list[float]] = list, attributes: tuple[str, ...] = ()
) -> Callable[[Linker, BoundNode], None]:
    """Of an op on elements: the names of its inputs, and the numbers that its attributes become."""

    def build(b: Linker, node: BoundNode) -> None:
        sources = [_need(b.source(node, name)) for name in names]
        y = b.new(node)
        if node.op == "mul" and len(y.tail) > 1 and sources[1].tail == (*y.tail[:-1], 1):
            y, sources = _by_last_axis(y), [_by_last_axis(source) for source in sources]
        one_a_row = node.op == "mul" and len(y.tail) == 1 and sources[1].tail == (1,) != y.tail
        columns = [y.columns, 1 if one_a_row else y.columns]
        if any((v.rows, v.columns) != (y.rows, n) for v, n in zip(sources, columns, strict=False)):
            raise NotLinked(f"{node.op}: arrays that broadcast")
        strides: list[Size] = [v.stride for v in (*sources, y)]
        sizes: list[Size] = [y.rows, y.columns, *strides, y.number]
        made = numbers(*(_attribute(node, name) for name in attributes))
        b.add(node.op, [*sources, y], [*sizes, int(one_a_row)] if len(names) == 2 else sizes, made)

    return build


def _norm(weights: tuple[str, ...], attributes: tuple[str, ...]) -> Callable[[Linker, BoundNode], None]:
    """Of a norm: the names of its weights, which have no rows, and of its attributes."""

    def build(b: Linker, node: BoundNode) -> None:
        x, y = _need(b.source(node, "x")), b.new(node)
        if not x.tail:
            raise NotLinked(f"{node.op}: one row")
        *several, columns = x.tail
        together = prod(several)
        arrays: list[Value | int | None] = [x, *(b.source(node, name) for name in weights), y]
        numbers = [_attribute(node, name) for name in attributes]
        b.add(node.op, arrays, [_times(x.rows, together), columns, x.stride, y.stride, y.number, together], numbers)

    return build


def _rope_angles(b: Linker, node: BoundNode) -> None:
    if "inv_freq" in node.inputs:
        raise NotLinked("rope_angles: inv_freq")
    positions, cos, sin = _need(b.source(node, "positions")), b.new(node, 0), b.new(node, 1)
    lengths = b.source(node, "lengths")
    names = ("dims", "base", "scaling", "position_scale")
    turns = frequencies(None, *(_attribute(node, name) for name in names))
    if any(value is not None and value.columns != 1 for value in (positions, lengths)):
        raise NotLinked("rope_angles: several positions a row")
    others = None if turns.others is None else b.constant(turns.others)
    arrays: list[Value | int | None] = [positions, b.constant(turns.frequencies), cos, sin, lengths, others]
    log_scale, log_period = (_attribute(node, name) for name in ("log_scale", "log_period"))
    sizes: list[Size] = [positions.rows, len(turns.frequencies), turns.limit, log_period or 1]
    b.add("rope_angles", arrays, sizes, [*turns.numbers, log_scale])


def _rope_rotate(b: Linker, node: BoundNode) -> None:
    x, cos, sin = (_need(b.source(node, name)) for name in ("x", "cos", "sin"))
    heads, dim = _of_axes(x, 2).tail
    if cos.tail[:-1] != (1,) or cos.rows != x.rows or cos.dtype != "float32":
        raise NotLinked("rope_rotate: angles that each head has, or that rows share")
    y = b.new(node)
    sizes: list[Size] = [x.rows, x.columns, x.stride, y.stride, x.number, heads, dim, cos.tail[-1]]
    b.add("rope_rotate", [x, cos, sin, y], [*sizes, int(_attribute(node, "traditional")), cos.stride])


def _split(b: Linker, node: BoundNode) -> None:
    x, sizes, axis = _need(b.source(node, "x")), _attribute(node, "sizes"), _attribute(node, "axis")
    axis = axis % (len(x.tail) + 1) - 1
    if axis != 0:
        raise NotLinked("split: along another axis than the first of a row")
    inner = x.columns // x.tail[0] * x.itemsize
    for number, (start, end) in zip(node.targets, pairwise(accumulate(sizes, initial=0)), strict=True):
        b.view(number, replace(x, tail=(end - start, *x.tail[1:]), offset=x.offset + start * inner))


def _split_heads(b: Linker, node: BoundNode) -> None:
    x, heads = _of_axes(b.source(node, "x"), 1), _attribute(node, "heads")
    dim = x.columns // sum(heads)
    for number, (start, end) in zip(node.targets, pairwise(accumulate(heads, initial=0)), strict=True):
        b.view(number, replace(x, tail=(end - start, dim), offset=x.offset + start * dim * x.itemsize))


def _merge_heads(b: Linker, node: BoundNode) -> None:
    x = _of_axes(b.source(node, "x"), 2)
    b.view(node.targets[0], replace(x, tail=(x.columns,)))


def _moe_router(b: Linker, node: BoundNode) -> None:
    logits, given = _of_axes(b.source(node, "logits"), 1), [b.source(node, name) for name in ("bias", "expert_scale")]
    experts, weights = b.new(node, 0), b.new(node, 1)
    numbers = [_attribute(node, name) for name in ("top_k", "score", "normalize", "groups", "groups_kept")]
    top_k, score, normalize, groups, kept = numbers
    sizes: list[Size] = [logits.rows, logits.columns, logits.stride, logits.number]
    sizes += [value.number if value else 0 for value in given]
    sizes += [top_k, SCORES.index(score), int(normalize), groups, kept]
    b.add("moe_router", [logits, *given, experts, weights], sizes, [_attribute(node, "scaling")])


def _moe_experts(b: Linker, node: BoundNode) -> None:
    x, experts, weights = (_of_axes(b.source(node, name), 1) for name in ("x", "experts", "weights"))
    stacks = [b.weight(node, f"{name}_proj") for name in PROJECTIONS]
    if None in stacks or experts.dtype != "int32" or weights.dtype != "float32":
        raise NotLinked("moe_experts: stacks that are no constants, or numbers of another dtype")
    biases, y = [b.source(node, f"{name}_bias") for name in PROJECTIONS], b.new(node)
    kept = b.run.constants[node.sources[node.inputs.index("gate_proj")]]
    settings = {name: _attribute(node, name) for name in ("activation", "limit", "alpha", "up_offset")}
    gelu, numbers = of_settings(**settings)
    limbs = LIMBS[node.kernel.rpartition(":")[2]]
    sizes: list[Size] = [x.rows, experts.columns, len(kept["codes"]), x.stride, y.stride, x.number, limbs, gelu]
    b.add("moe_experts", [x, experts, weights, *stacks, *biases, y], sizes, numbers)


def _strides(b: Linker, node: BoundNode, name: str) -> list[Size]:
    return [b.of_array(node, name, "strides", axis) for axis in range(3)]


def _kv_append(b: Linker, node: BoundNode) -> None:
    k_pages, v_pages, k, v, slots = (_need(b.source(node, n)) for n in ("k_pages", "v_pages", "k", "v", "slots"))
    heads, dim = k.tail
    page = b.of_array(node, "k_pages", "shape", 2)
    sizes: list[Size] = [k.rows, k.columns, heads, page, dim, v.tail[1], k.stride, v.stride, k.number, k_pages.number]
    strides = [*_strides(b, node, "k_pages"), *_strides(b, node, "v_pages")]
    b.add("kv_append", [k_pages, v_pages, k, v, slots], [*sizes, *strides])
    for number, name in zip(node.targets, ("k_pages", "v_pages"), strict=True):
        b.alias(number, node.sources[node.inputs.index(name)])


def _paged_attention(b: Linker, node: BoundNode) -> None:
    names = ("q", "k_pages", "v_pages", "q_start", "kv_len", "block_table")
    q, k_pages, v_pages, q_start, kv_len, table = (_need(b.source(node, name)) for name in names)
    sinks, y = b.source(node, "sinks"), b.new(node)
    (heads, dim), (_, value_dim) = q.tail, y.tail
    scale, softcap, window = (_attribute(node, name) for name in ("scale", "softcap", "window"))
    sizes: list[Size] = [q.rows, heads, k_pages.tail[0], dim, value_dim, b.of_array(node, "k_pages", "shape", 2)]
    sizes += [kv_len.rows, b.of_array(node, "block_table", "shape", 1), q.stride, y.stride]
    sizes += [*_strides(b, node, "k_pages"), *_strides(b, node, "v_pages"), q.number, k_pages.number]
    sizes += [sinks.number if sinks else 0, window or 0]
    arrays: list[Value | int | None] = [q, k_pages, v_pages, q_start, kv_len, table, sinks, y]
    b.add("paged_attention", arrays, sizes, [dim**-0.5 if scale is None else scale, softcap or 0.0])


def _short_conv(b: Linker, node: BoundNode) -> None:
    names = ("x", "state", "weight", "q_start", "kv_len", "state_rows")
    x, state, weight, q_start, kv_len, state_rows = (_need(b.source(node, name)) for name in names)
    bias, y = b.source(node, "bias"), b.new(node)
    sizes: list[Size] = [x.rows, x.columns, weight.columns, kv_len.rows, x.stride, y.stride]
    sizes += [b.of_array(node, "state", "strides", 0), x.number, state.number]
    arrays: list[Value | int | None] = [x, state, weight, q_start, kv_len, state_rows, bias, y]
    b.add("short_conv", arrays, [*sizes, int(_attribute(node, "activation") == "silu")])
    b.alias(node.targets[1], node.sources[node.inputs.index("state")])


def _gated_delta(b: Linker, node: BoundNode) -> None:
    rows = [_need(b.source(node, name)) for name in ("q", "k", "v", "a", "b")]
    state, a_log, dt_bias = (_need(b.source(node, name)) for name in ("state", "a_log", "dt_bias"))
    q_start, kv_len, state_rows = (_need(b.source(node, name)) for name in ("q_start", "kv_len", "state_rows"))
    q, v, y = rows[0], rows[2], b.new(node)
    sizes: list[Size] = [q.rows, state.columns, q.tail[0], v.tail[0], q.tail[1], v.tail[1], kv_len.rows]
    sizes += [*(value.stride for value in rows), y.stride, b.of_array(node, "state", "strides", 0)]
    sizes += [q.number, state.number, a_log.number, dt_bias.number, int(bool(_attribute(node, "tiled")))]
    b.add("gated_delta", [*rows, state, a_log, dt_bias, q_start, kv_len, state_rows, y], sizes)
    b.alias(node.targets[1], node.sources[node.inputs.index("state")])


BUILDERS: dict[str, Callable[[Linker, BoundNode], None]] = {
    "linear": _linear,
    "embedding": _embedding,
    "add": _elements("x", "y"),
    "mul": _elements("x", "y"),
    "scale": _elements("x", numbers=lambda factor: [factor], attributes=("factor",)),
    "softcap": _elements("x", numbers=lambda cap: [cap], attributes=("cap",)),
    "sigmoid": _elements("x"),
    "silu": _elements("x"),
    "gelu": _elements("x", numbers=gelu_numbers, attributes=("approximate",)),
    "swiglu": _elements("gate", "up", numbers=swiglu_numbers, attributes=("limit", "alpha", "up_offset")),
    "geglu": _elements("gate", "up", numbers=gelu_numbers, attributes=("approximate",)),
    "rms_norm": _norm(("weight",), ("eps", "offset")),
    "layer_norm": _norm(("weight", "bias"), ("eps",)),
    "rope_angles": _rope_angles,
    "rope_rotate": _rope_rotate,
    "split": _split,
    "split_heads": _split_heads,
    "merge_heads": _merge_heads,
    "kv_append": _kv_append,
    "paged_attention": _paged_attention,
    "moe_router": _moe_router,
    "moe_experts": _moe_experts,
    "short_conv": _short_conv,
    "gated_delta": _gated_delta,
    "all_reduce": parallel.build,
}
