"""Records the op calls of a bound program while it runs: which op, on what shapes and dtypes, with which attributes and
indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyllm.graph.observe import Ran
from tinyllm.plugins.backend import on_host
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import INTEGERS, ArrayType, Call


@dataclass(frozen=True)
class Recorded:
    """A call. `types` per input that was given; `values` of those that hold integers, since shapes do not say which
    keys are read."""

    op: str
    types: Mapping[str, ArrayType | QuantType]
    attributes: Mapping[str, Any]
    values: Mapping[str, np.ndarray]


@dataclass
class Recorder:
    """An observer of values that keeps each call in `calls`, the first of a form only, with how often it came in
    `counts`.

    Weights are told by the graph, since kernels see them packed; all else by what came.
    """

    specs: Mapping[str, OpSpec]
    calls: dict[Any, Recorded] = field(default_factory=dict)
    counts: dict[Any, int] = field(default_factory=dict)

    def __call__(self, ran: Ran) -> None:
        """Keep the call of a node; copies between backends are none."""
        if ran.node.asked is None:
            return
        types = _types(ran.node.asked, ran.inputs)
        given = ran.node.asked.attributes
        attributes = {a.name: given[a.name] for a in self.specs[ran.node.op].attributes if given[a.name] != a.default}
        key = (
            ran.node.op,
            tuple((n, str(t)) for n, t in types.items()),
            tuple((n, repr(v)) for n, v in attributes.items()),
        )
        self.counts[key] = self.counts.get(key, 0) + 1
        if key not in self.calls:
            values = {n: on_host(ran.node.backend, ran.inputs[n]).copy() for n, t in types.items() if _is_integer(t)}
            self.calls[key] = Recorded(ran.node.op, types, attributes, values)


def _types(call: Call, inputs: Mapping[str, Any]) -> dict[str, ArrayType | QuantType]:
    """What the graph says of each input, with the sizes that came where they change from step to step."""
    types: dict[str, ArrayType | QuantType] = {}
    for name, value in inputs.items():
        kind = call.inputs[name]
        if isinstance(kind, ArrayType) and not all(isinstance(size, int) for size in kind.shape):
            kind = ArrayType(tuple(value.shape), kind.dtype)
        if kind is not None:
            types[name] = kind
    return types


def _is_integer(kind: ArrayType | QuantType) -> bool:
    return isinstance(kind, ArrayType) and kind.dtype in INTEGERS
