"""Folds equal blocks of a graph into one. A block is what was built under a numbered scope (`model.layers.3`); which
blocks are equal, their structure alone says: ops, attributes, shapes, dtypes and edges, and no name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tinyllm.graph.graph import Graph, Node

_NUMBERED = re.compile(r"(?:(.+?)\.)?(\d+)\.")

Block = tuple[str, int]
"""A scope and its number: `("model.layers", 3)`."""


@dataclass(frozen=True)
class Part:
    """Nodes that are shown once: those that belong to no block, or the first one's of equal blocks.

    scope, numbers: which blocks these are; empty for nodes that belong to none.
    names: per block what its nodes, values, weights and states are called, by their names in the first one. What it
        reads from outside is among them.
    """

    nodes: tuple[Node, ...]
    scope: str = ""
    numbers: tuple[int, ...] = ()
    names: tuple[Mapping[str, str], ...] = ({},)

    def each(self, name: str) -> list[str]:
        """What a name of the first block is called in each."""
        return [names.get(name, name) for names in self.names]


@dataclass(frozen=True)
class Folded:
    """A graph as parts, in the order in which they first come."""

    graph: Graph
    parts: tuple[Part, ...]

    def is_named(self, part: Part, value: str) -> bool:
        """Whether a value that a block reads from outside is one of the whole graph's, such as the angles of a rope,
        and not what goes from block to block."""
        blocks = self.readers[value] - {None}
        first = next(part for part in self.parts if part.numbers)
        return bool(part.numbers) and (len(blocks) > 1 or (part is not first and value in self.outside))

    @cached_property
    def readers(self) -> dict[str, set[Block | None]]:
        """Per value that a node makes, the blocks but its own that read it; None among them: nodes of no block do."""
        return _readers(self.graph)

    @cached_property
    def outside(self) -> frozenset[str]:
        """The values that nodes of no block make."""
        return frozenset(value for part in self.parts if not part.numbers for n in part.nodes for value in n.outputs)


def block_of(name: str) -> Block | None:
    """The block of a node; None for one that belongs to none."""
    found = _NUMBERED.match(name)
    return (found[1] or "", int(found[2])) if found else None


def fold(graph: Graph, equal: bool = True) -> Folded:
    """The graph with equal blocks as one part; with `equal` False each block is a part of its own."""
    blocks: dict[Block, list[Node]] = {}
    for node in graph.nodes:
        if (block := block_of(node.name)) is not None:
            blocks.setdefault(block, []).append(node)
    structure = _Structure(graph, blocks)
    kinds: dict[Any, list[Block]] = {}
    for block in blocks:
        kinds.setdefault((block[0], structure.of(block) if equal else block), []).append(block)
    of_first = {same[0]: _part(same, blocks) for same in kinds.values()}
    parts: list[Part] = []
    for node in graph.nodes:
        block = block_of(node.name)
        if block is not None:
            parts += [part] if (part := of_first.pop(block, None)) else []
        elif parts and not parts[-1].numbers:
            parts[-1] = replace(parts[-1], nodes=(*parts[-1].nodes, node))
        else:
            parts.append(Part((node,)))
    return Folded(graph, tuple(parts))


def unfold(folded: Folded) -> Iterator[Node]:
    """Every node of the graph that was folded, part by part and block by block."""
    for part in folded.parts:
        for names in part.names:
            for node in part.nodes:
                yield replace(
                    node,
                    name=names.get(node.name, node.name),
                    inputs={name: names.get(value, value) for name, value in node.inputs.items()},
                    outputs=tuple(names.get(value, value) for value in node.outputs),
                )


def _part(same: Sequence[Block], blocks: Mapping[Block, list[Node]]) -> Part:
    first = blocks[same[0]]
    names: list[Mapping[str, str]] = []
    for block in same:
        found: dict[str, str] = {}
        for node, other in zip(first, blocks[block], strict=True):
            found |= {node.name: other.name, **dict(zip(node.outputs, other.outputs, strict=True))}
            found |= {value: other.inputs[name] for name, value in node.inputs.items()}
        names.append(found)
    return Part(tuple(first), same[0][0], tuple(number for _, number in same), tuple(names))


def _readers(graph: Graph) -> dict[str, set[Block | None]]:
    """Per value the blocks but its own that read it, None among them for nodes of no block."""
    home = {value: block_of(node.name) for node in graph.nodes for value in node.outputs}
    readers: dict[str, set[Block | None]] = {value: set() for value in home}
    for node in graph.nodes:
        block = block_of(node.name)
        for name in node.inputs.values():
            if name in home and (block is None or block != home[name]):
                readers[name].add(block)
    return readers


class _Structure:
    """What makes blocks equal, as something to compare."""

    def __init__(self, graph: Graph, blocks: Mapping[Block, list[Node]]) -> None:
        self.graph, self.blocks = graph, blocks
        self.order = {block: number for number, block in enumerate(blocks)}
        self.readers = _readers(graph)
        self.updated = {value: state for state, value in graph.updates.items()}
        self.home = {value: block_of(node.name) for node in graph.nodes for value in node.outputs}
        self.entering: list[str] = []
        self.users: dict[str, set[Block | None]] = {}  # of weights and states
        for node in graph.nodes:
            for name in node.inputs.values():
                self.users.setdefault(name, set()).add(block_of(node.name))
        self.exports = {
            block: [v for node in nodes for v in node.outputs if self.readers[v] or v in graph.outputs]
            for block, nodes in blocks.items()
        }

    def of(self, block: Block) -> tuple[Any, ...]:
        """Two blocks are equal where this is."""
        numbers: dict[str, int] = {}
        for node in self.blocks[block]:
            for value in node.outputs:
                numbers[value] = len(numbers)
        found: list[Any] = []
        for node in self.blocks[block]:
            attributes = sorted((name, repr(value)) for name, value in node.attributes.items())
            inputs = [(name, self._input(block, value, numbers)) for name, value in node.inputs.items()]
            outputs = [self._output(value, numbers) for value in node.outputs]
            found.append((node.op, tuple(attributes), tuple(inputs), tuple(outputs)))
        return tuple(found)

    def _input(self, block: Block, name: str, numbers: dict[str, int]) -> tuple[Any, ...]:
        graph, kind = self.graph, str(self.graph.type_of(name))
        if name in graph.inputs:
            return "input", name
        if name in graph.weights or name in graph.states:
            own = self.users[name] == {block}
            parts = len(graph.weights[name].tensors) if name in graph.weights else None
            return "own" if own else "shared", numbers.setdefault(name, len(numbers)) if own else name, kind, parts
        if self.home[name] == block:
            return "inside", numbers[name]
        if len(self.readers[name] - {None}) > 1:
            return "shared", name
        source = self.home[name]
        if source is not None:  # the block before's, mostly: told by how far it is and which of its values this is
            return "carried", self.order[block] - self.order[source], self.exports[source].index(name), kind
        if self.order[block]:
            return "outside", name
        if name not in self.entering:  # what the first block begins with is what the next one is carried
            self.entering.append(name)
        return "carried", 1, self.entering.index(name), kind

    def _output(self, value: str, numbers: dict[str, int]) -> tuple[Any, ...]:
        graph = self.graph
        state = self.updated.get(value)
        place = graph.outputs.index(value) if value in graph.outputs else None
        read = None in self.readers[value], bool(self.readers[value] - {None})
        return str(graph.types[value]), numbers.get(state, state) if state else None, read, place
