"""Bytes of weights that a node reads at a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from tinyllm.plugins.backend import BoundNode
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType


def weight_bytes(node: BoundNode, specs: Mapping[str, OpSpec], sizes: Mapping[str, int]) -> int:
    """As the model holds its weights: all of a matrix, of a table the rows that are looked up, and of a mixture the
    experts that tokens can name. sizes: those of the step, by name."""
    if node.call is None:
        return 0
    spec = specs[node.op]
    weights = [i.name for i in spec.inputs if i.kind == "weight" and _is_fixed(node.call.inputs.get(i.name))]
    if not weights:
        return 0
    sized = {name: _sized(kind, sizes) for name, kind in node.call.inputs.items()}
    if spec.bytes is not None:
        return int(spec.bytes(replace(node.call, inputs=sized)))
    return sum(_bytes(sized[name]) for name in weights)


def _is_fixed(kind: ArrayType | QuantType | None) -> bool:
    """A value of the step may stand in a weight's place: it has a size that changes."""
    return kind is not None and all(isinstance(size, int) for size in kind.shape)


def _sized(kind: ArrayType | QuantType | None, sizes: Mapping[str, int]) -> Any:
    if kind is None:
        return None
    return replace(kind, shape=tuple(sizes.get(n, n) if isinstance(n, str) else n for n in kind.shape))


def _bytes(kind: Any) -> int:
    bits = kind.scheme.bits_per_weight if isinstance(kind, QuantType) else 8 * numpy_dtype(kind.dtype).itemsize
    return int(prod(kind.shape) * bits / 8)
