"""A run of bound nodes, as `Backend.link` gets it to make one call of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BoundNode:
    """A node of a bound program: `function(*sources) -> targets`, sources and targets being numbers of values.

    kernel: its id, `mlx/linear:scratch`. several: the function gives a tuple, a part for each target.
    """

    op: str
    name: str
    kernel: str
    function: Callable[..., Any]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    several: bool


@dataclass(frozen=True)
class Run:
    """Neighbouring nodes of one backend, all traceable. Calling it runs them one after the other.

    inputs: numbers of the arrays that it is called with, weights included. outputs: those that it gives, as a tuple.
    constants: by number the packed weights that are no arrays. No Python value that changes between steps is in it.
    """

    nodes: tuple[BoundNode, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: Mapping[int, Any]

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        values = dict(zip(self.inputs, arrays, strict=True)) | dict(self.constants)
        for node in self.nodes:
            result = node.function(*[values[source] for source in node.sources])
            values.update(zip(node.targets, result if node.several else (result,), strict=True))
        return tuple(values[number] for number in self.outputs)
