"""From a decoder's config and a checkpoint to a bound program: build the graph, apply the passes, bind."""

from __future__ import annotations

from collections.abc import Callable

from tinyllm.graph.bind import WeightSource, bind
from tinyllm.graph.graph import Graph
from tinyllm.graph.passes.merge import merge_projections, merge_rotations, use_quantized
from tinyllm.graph.program import Program
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection
from tinyllm.spec.types import QuantType


def optimise(graph: Graph, source: WeightSource) -> Graph:
    """The same model as the checkpoint stores it: quantized ops where its tensors are, projections and rotations
    merged."""

    def form(name: str) -> str:
        kind = source.info(name).type
        if isinstance(kind, QuantType):
            return f"{kind.scheme} {kind.bits} {kind.group_size}"
        return str(kind.dtype)

    graph = use_quantized(graph, lambda name: name in graph.weights and isinstance(source.info(name).type, QuantType))
    return merge_rotations(merge_projections(graph, form))


def compose(
    graph: Graph,
    registry: Registry,
    selection: Selection,
    source: WeightSource,
    *,
    fast: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Program:
    """`optimise`, then `bind`. Raises what they raise."""
    return bind(optimise(graph, source), registry, selection, source, fast=fast, progress=progress)
