"""Cuts a graph into stages by layer ranges: each stage runs on what the one before it sends, and on the step's inputs.

Source: Huang et al. 2019, arXiv:1811.06965. What is sent is whatever values a stage reads and does not make: the hidden
states, the inputs that Gemma 4 has for each layer, and the keys and values of layers whose pages others read, which
each stage appends to pages of its own. What costs little is made again: nodes that read the step's inputs alone, as
the angles of ropes do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.graph.graph import Graph, Node
from tinyllm.graph.tools.fold import block_of


@dataclass(frozen=True)
class Stage:
    """What one process runs of a graph.

    graph: what the stage is sent is among its inputs, what it makes and sends among its outputs. whole: the graph that
    was cut. layers: their numbers. received, sent: names of values, in the order in which they are made; some may only
    pass through.
    """

    graph: Graph
    whole: Graph
    layers: range
    received: tuple[str, ...]
    sent: tuple[str, ...]


def layer_ranges(graph: Graph, nbytes: Mapping[str, int], stages: int) -> list[range]:
    """The layers of each stage, so that the stage that has the most bytes of weights has as few as can be.

    nbytes: per weight. A weight that nodes of several stages read, such as a tied embedding, is in each of them.

    Raises:
        InvalidInputError: more stages than layers.
    """
    layers = _layers(graph)
    count = max((number for number in layers.values() if number is not None), default=-1) + 1
    if stages > count:
        raise InvalidInputError(
            f"pipeline_parallel: expected at most {count}, as many as the model has layers, got {stages}"
        )
    sizes, first, last = _sizes(graph, layers, nbytes, count)
    sums = [0]
    for size in sizes:
        sums.append(sums[-1] + size)
    # per end of a stage: the most bytes of any stage so far, and where the stages begin
    best: dict[int, tuple[int, tuple[int, ...]]] = {end: (sums[end] + first, (0,)) for end in range(1, count + 1)}
    for stage in range(1, stages):
        tail = last if stage == stages - 1 else 0
        best = {
            end: min(
                (max(best[start][0], sums[end] - sums[start] + tail), (*best[start][1], start))
                for start in range(stage, end)
            )
            for end in range(stage + 1, count + 1)
        }
    starts = best[count][1]
    return [range(start, end) for start, end in zip(starts, (*starts[1:], count), strict=True)]


def pipeline(graph: Graph, ranges: list[range]) -> list[Stage]:
    """The stages of a graph. Nodes of no layer run where the last of what they read is made: embeddings in the first
    stage, the head in the last.

    Raises:
        UnsupportedError: a layer that reads what a later one makes, or a state of an earlier stage whose update reads
            weights.
    """
    makers = {output: node for node in graph.nodes for output in node.outputs}
    stage_of = _stage_of(graph, makers, ranges)
    own = [_own(graph, makers, stage_of, number, len(ranges)) for number in range(len(ranges))]
    order = {name: place for place, name in enumerate(makers)}
    crossing: list[tuple[str, ...]] = [() for _ in ranges] + [graph.outputs]  # into each stage, and out of the last
    for number in range(1, len(ranges)):
        read = {name for _, received in own[number:] for name in received}
        before = {name for name in read if stage_of[makers[name].name] < number}
        crossing[number] = tuple(sorted(before, key=order.__getitem__))
    return [
        Stage(_part(graph, own[n][0], crossing[n], crossing[n + 1]), graph, layers, crossing[n], crossing[n + 1])
        for n, layers in enumerate(ranges)
    ]


def _layers(graph: Graph) -> dict[str, int | None]:
    """Per node the number of its layer; None: it belongs to none."""
    blocks = {node.name: block_of(node.name) for node in graph.nodes}
    return {name: None if block is None else block[1] for name, block in blocks.items()}


def _sizes(
    graph: Graph, layers: Mapping[str, int | None], nbytes: Mapping[str, int], count: int
) -> tuple[list[int], int, int]:
    """Bytes of the weights of each layer, and of those that stand before and after all layers."""
    weights: dict[int, set[str]] = {}
    reached: dict[str, int] = {}  # per value the layer that it comes from, -1 before all, `count` after them
    for node in graph.nodes:
        layer = layers[node.name]
        if layer is None:
            layer = count if any(reached.get(name, -1) >= 0 for name in node.inputs.values()) else -1
        reached |= dict.fromkeys(node.outputs, layer)
        weights.setdefault(layer, set()).update(name for name in node.inputs.values() if name in graph.weights)
    sizes = [sum(nbytes[name] for name in weights.get(layer, ())) for layer in range(-1, count + 1)]
    return sizes[1:-1], sizes[0], sizes[-1]


def _stage_of(graph: Graph, makers: Mapping[str, Node], ranges: list[range]) -> dict[str, int]:
    """Per node its stage; those that read the step's inputs alone are in none, and made wherever they are read."""
    layers, found = _layers(graph), dict[str, int]()
    for node in graph.nodes:
        before = [found[makers[name].name] for name in _read(node) if name in makers and makers[name].name in found]
        layer = layers[node.name]
        if layer is not None:
            stage = next(number for number, of_stage in enumerate(ranges) if layer in of_stage)
        elif before or any(name in graph.weights or name in graph.states for name in _read(node)):
            stage = max(before, default=0)
        else:
            continue
        if max(before, default=0) > stage:
            raise UnsupportedError(f"pipeline_parallel: {node.name}: reads what a later layer makes: it cannot be cut")
        found[node.name] = stage
    return found


def _own(
    graph: Graph, makers: Mapping[str, Node], stage_of: Mapping[str, int], number: int, stages: int
) -> tuple[set[str], set[str]]:
    """Names of the nodes that a stage runs, and of the values that it has to be sent."""
    runs = {name for name, stage in stage_of.items() if stage == number}
    waiting = [name for node in graph.nodes if node.name in runs for name in _read(node)]
    waiting += graph.outputs if number == stages - 1 else ()
    updated = {*graph.updates.values()}
    received: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in makers or makers[name].name in runs:
            continue
        node = makers[name]
        if name in updated and any(read in graph.weights for read in _read(node)):
            raise UnsupportedError(
                f"pipeline_parallel: {node.name}: a later stage reads the state that it updates, and would need its "
                f"weights: it cannot be cut"
            )
        if name in updated or node.name not in stage_of:
            runs.add(node.name)
            waiting += _read(node)
        else:
            received.add(name)
    return runs, received


def _read(node: Node) -> list[str]:
    return [*node.inputs.values()]


def _part(graph: Graph, runs: set[str], received: tuple[str, ...], sent: tuple[str, ...]) -> Graph:
    """The graph of some nodes."""
    nodes = tuple(node for node in graph.nodes if node.name in runs)
    read = {name for node in nodes for name in _read(node)}
    made = {name for node in nodes for name in node.outputs}
    if apart := [name for name, value in graph.updates.items() if name in read and value not in made]:
        raise UnsupportedError(f"pipeline_parallel: state {apart[0]}: one stage reads it, another updates it")
    return replace(
        graph,
        inputs={name: kind for name, kind in graph.inputs.items() if name in read}
        | {name: graph.types[name] for name in received if name in read},
        weights={name: weight for name, weight in graph.weights.items() if name in read},
        states={name: state for name, state in graph.states.items() if name in read},
        nodes=nodes,
        types={name: kind for name, kind in graph.types.items() if name in made},
        outputs=tuple(name for name in sent if name in made),
        updates={name: value for name, value in graph.updates.items() if value in made},
    )
