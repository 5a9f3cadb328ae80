"""What a node of a bound program must compute and move at a step, as the spec of its op says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tinyllm.plugins.backend import BoundNode
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType, Call
from tinyllm.spec.validation import check_call, output_types

Sizes = Mapping[str, int]
"""Sizes that change from step to step, by the names that the graph has for them."""


@dataclass(frozen=True)
class Cost:
    """Operations of a call, and bytes that it reads and writes: of a weight as its kernel holds it."""

    flops: int
    bytes: int


def step_sizes(tokens: int, keys: int, sequences: int = 1) -> Sizes:
    """The sizes of a graph in a step: the new tokens of each sequence, the keys that it has after the step, and one row
    of logits each. The keys of a sequence count as one page that they fill, so that no empty places are counted."""
    return {
        "T": sequences * tokens,
        "R": sequences,
        "B": sequences,
        "B1": sequences + 1,
        "M": 1,
        "page": max(1, keys),
        "P": sequences,
    }


def call_cost(spec: OpSpec, call: Call) -> Cost:
    """The cost of a call by the formulas of its op's spec; where that has none for bytes, each input is read once and
    each output written once."""
    if spec.bytes is not None:
        return Cost(int(spec.flops(call)), int(spec.bytes(call)))
    kinds = (kind for kind in (*call.inputs.values(), *output_types(spec, call)) if kind is not None)
    return Cost(int(spec.flops(call)), sum(map(type_bytes, kinds)))


def node_cost(node: BoundNode, specs: Mapping[str, OpSpec], sizes: Sizes) -> Cost:
    """The cost of a node, which must name no other sizes. A copy reads and writes its value."""
    if node.call is None:
        return Cost(0, 2 * sum(type_bytes(sized(kind, sizes)) for kind in node.types))
    types = {name: sized(kind, sizes) for name, kind in node.call.inputs.items() if kind is not None}
    spec = specs[node.op]
    return call_cost(spec, check_call(spec, types, node.call.attributes, node.call.device))


def weight_scheme(node: BoundNode) -> QuantType | None:
    """The type of the quantized weight that a node reads, as its kernel holds it."""
    kinds = node.call.inputs.values() if node.call else ()
    return next((kind for kind in kinds if isinstance(kind, QuantType)), None)


def held_bytes(nodes: Iterable[BoundNode], specs: Mapping[str, OpSpec]) -> int:
    """Bytes of all weights that nodes read, each counted once."""
    found: dict[int, int] = {}
    for node in nodes:
        weights = {i.name for i in specs[node.op].inputs if i.kind == "weight"} if node.call else set()
        for name, number in zip(node.inputs, node.sources, strict=False):  # a copy's input has no name
            kind = node.call.inputs[name] if node.call and name in weights else None
            if kind is not None and all(isinstance(size, int) for size in kind.shape):
                found[number] = type_bytes(kind)
    return sum(found.values())


def type_bytes(kind: ArrayType | QuantType) -> int:
    """Bytes of an array or a quantized weight whose sizes are numbers."""
    bits = kind.scheme.bits_per_weight if isinstance(kind, QuantType) else 8 * numpy_dtype(kind.dtype).itemsize
    return int(prod(int(size) for size in kind.shape) * bits / 8)


def sized(kind: ArrayType | QuantType, sizes: Sizes) -> Any:
    """A type with numbers for the sizes that have names."""
    return replace(kind, shape=tuple(sizes[size] if isinstance(size, str) else size for size in kind.shape))
