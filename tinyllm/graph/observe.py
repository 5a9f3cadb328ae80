"""What a running program tells of its nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyllm.plugins.backend import BoundNode, Run
from tinyllm.spec.scheme import QuantWeight


@dataclass(frozen=True)
class Ran:
    """A node that ran, and the seconds that it took; of a view that costs nothing 0.

    inputs, outputs: what it was given and what it gave, by the op's names for them: arrays of the node's backend, of
    inputs that its kernel reads on the host numpy's, weights as they are packed. Both are empty where the observer
    wants no values, inputs also where the node is a copy. What an op consumes holds afterwards what was written there,
    and a later node may write to it again: whoever keeps it copies it.
    """

    node: BoundNode
    seconds: float
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


Observe = Callable[[Ran], Mapping[str, Any] | None]
"""Told of each node of a step, those of linked runs too, once it has run and in this order. Where values are told, it
may give other arrays of the node's backend for outputs, by the op's names for them, which take their place."""


def observed(
    node: BoundNode, function: Callable[..., Any], run: Run | None, observe: Observe, values: bool
) -> Callable[..., Any]:
    """A step's function that tells of the step's nodes.

    function: the step's. run: the nodes that it is one call of. A linked call that takes the times of its nodes itself
    stays one call where no values are wanted; otherwise they run one by one.
    """

    def one(node: BoundNode, arrays: Sequence[Any]) -> Any:
        run_node, wait = node.function, node.backend.synchronize
        start = time.perf_counter()
        result = run_node(*arrays)
        parts = result if node.several else (result,)
        wait(*parts)
        seconds = time.perf_counter() - start
        given = dict(zip(node.inputs, arrays, strict=True)) if values and node.inputs else {}
        outputs = dict(zip(node.outputs, parts, strict=True)) if values else {}
        changed = observe(Ran(node, seconds, given, outputs))
        if not changed or not values:
            return result
        parts = tuple({**outputs, **changed}[name] for name in node.outputs)
        return parts if node.several else parts[0]

    def linked(*arrays: Any) -> Any:
        results, seconds = function.timed(*arrays)  # type: ignore[attr-defined]
        for inner, took in zip(run.nodes if run else (), seconds, strict=True):
            observe(Ran(inner, took))
        return results

    if run is None:
        return lambda *arrays: one(node, arrays)
    if hasattr(function, "timed") and not values:
        return linked
    return lambda *arrays: run(*arrays, around=one)


def is_array(value: Any) -> bool:
    """A packed weight may know its dtype, but has no shape."""
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, QuantWeight)
