"""One part of a folded graph, placed by itself: its nodes as cards, and pills for what comes in and goes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tinyllm.graph.tools.cards import Card, type_text
from tinyllm.graph.tools.fold import Folded
from tinyllm.graph.tools.layered import Edge, Layout, Point, Size, layered

CHARACTER, LINE = 6.7, 16.0
"""Of the small monospaced text, 11 pixels high."""
HEADER = 40.0
"""Of a card: its op, and below it its name."""
PAD = 10.0
PILL = 22.0
_MOST = 40
"""Characters of a line of a card."""

Role = Literal["node", "input", "output", "in", "out", "named", "hidden"]


@dataclass(frozen=True)
class Box:
    """A node's card, or a pill. id: of a card the node's name. text: of a pill. lines: of a card, each with its
    class."""

    id: str
    role: Role
    part: int
    x: float
    y: float
    width: float
    height: float
    text: str = ""
    card: Card | None = None
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Line:
    """An edge from box to box. kind: within a part, to the next part, or back to one above it. text: beside it."""

    source: str
    target: str
    value: str
    points: tuple[Point, ...]
    kind: Literal["inner", "next", "back"] = "inner"
    text: str = ""


@dataclass(frozen=True)
class Label:
    """The type of a value, below the box that makes it."""

    x: float
    y: float
    text: str
    box: str


@dataclass(frozen=True)
class Section:
    """ins, outs: where edges from and to other parts end, by value. ids: the boxes there."""

    x: float
    y: float
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    ins: Mapping[str, Point]
    outs: Mapping[str, Point]
    ids: Mapping[str, str]

    def moved(self, x: float, y: float) -> Section:
        """With its left top corner there."""
        x, y = x - self.x, y - self.y

        def points(of: Mapping[str, Point]) -> dict[str, Point]:
            return {name: (a + x, b + y) for name, (a, b) in of.items()}

        return replace(
            self,
            x=self.x + x,
            y=self.y + y,
            boxes=tuple(replace(box, x=box.x + x, y=box.y + y) for box in self.boxes),
            lines=tuple(replace(each, points=tuple((a + x, b + y) for a, b in each.points)) for each in self.lines),
            labels=tuple(replace(label, x=label.x + x, y=label.y + y) for label in self.labels),
            ins=points(self.ins),
            outs=points(self.outs),
        )


def section(folded: Folded, number: int, cards: Mapping[str, Card], leaving: Collection[str]) -> Section:
    """The part of this number. leaving: those of its values that go on to parts by an edge."""
    made = _Boxes(folded, number, cards, leaving)
    layout = layered({id: Size(box.width, box.height, id in made.pinned) for id, box in made.boxes.items()}, made.edges)
    boxes = {id: replace(box, x=layout.boxes[id][0], y=layout.boxes[id][1]) for id, box in made.boxes.items()}
    ins = {v: (boxes[id].x + boxes[id].width / 2, boxes[id].y) for v, id in made.ins.items()}
    outs = {v: (boxes[id].x + boxes[id].width / 2, boxes[id].y + boxes[id].height) for v, id in made.outs.items()}
    lines = tuple(
        Line(edge.source, edge.target, value, tuple(route))
        for edge, value, route in zip(made.edges, made.values, layout.routes, strict=True)
    )
    return Section(
        *(0.0, 0.0, layout.width, layout.height, tuple(boxes.values()), lines),
        tuple(_labels(made, layout, boxes)),
        *(ins, outs, made.ins | made.outs),
    )


class _Boxes:
    """The boxes of a part, with their sizes and edges."""

    def __init__(self, folded: Folded, number: int, cards: Mapping[str, Card], leaving: Collection[str]) -> None:
        self.folded, self.number, self.part, self.leaving = folded, number, folded.parts[number], leaving
        self.boxes: dict[str, Box] = {}
        self.starts: dict[str, tuple[str, float]] = {}
        """Per value the box that gives it, and where below it."""
        self.edges: list[Edge] = []
        self.values: list[str] = []
        self.ins: dict[str, str] = {}
        self.outs: dict[str, str] = {}
        self.pinned: set[str] = set()
        self.texts: dict[str, str] = {}
        """Labels, by value."""
        self._sources()
        for node in self.part.nodes:
            self._card(cards[node.name])
        self._results()

    def _pill(self, id: str, role: Role, text: str, *values: str) -> str:
        width = 0.0 if role == "hidden" else max(44.0, len(text) * CHARACTER + 2 * PAD)
        height = 0.0 if role == "hidden" else PILL
        self.boxes[id] = Box(id, role, self.number, 0.0, 0.0, width, height, text)
        self.starts |= dict.fromkeys(values, (id, width / 2))
        return id

    def _sources(self) -> None:
        """Pills for what comes in: inputs of the graph, values of the part before, and by name those of all blocks."""
        graph, part = self.folded.graph, self.part
        home = {value: node.name for node in graph.nodes for value in node.outputs}
        inside = {node.name for node in part.nodes}
        for name in dict.fromkeys(value for node in part.nodes for value in node.inputs.values()):
            if name in graph.inputs and not part.numbers:
                self._pill(f"input {name}", "input", f"{name} {type_text(graph, graph.inputs[name])}", name)
            elif name in home and home[name] not in inside:
                if self.folded.is_named(part, name):
                    id = f"{self.number} from {home[name]}"
                    self._pill(id, "named", f"{home[name]} {type_text(graph, graph.types[name])}", name)
                else:
                    id = f"{self.number} in {name}"
                    self.ins[name] = self._pill(id, "in" if part.numbers else "hidden", "in", name)
                    self.pinned.add(id)
                    self.texts[name] = type_text(graph, graph.types[name]) if part.numbers else ""

    def _card(self, card: Card) -> None:
        lines = tuple(_card_lines(card))
        labels = [len(text) * CHARACTER + 2 * PAD for text in card.outputs.values()]
        share = 0 if card.share is None else 6
        header = (len(card.node.op) + share) * 8.2, len(card.name) * CHARACTER
        # text begins 14 pixels in where a mark stands before it
        below = [len(text) * CHARACTER + (14 if kind in ("weight", "state", "input") else 0) for kind, text in lines]
        width = max(120.0, *(w + 2 * PAD for w in (*header, *below)), sum(labels))
        height = HEADER + (len(lines) * LINE + 6 if lines else 0)
        name = card.node.name
        self.boxes[name] = Box(name, "node", self.number, 0.0, 0.0, width, height, "", card, lines)
        for value in dict.fromkeys(card.node.inputs.values()):
            if value in self.starts:
                self._edge(value, name)
        spare, place = (width - sum(labels)) / len(labels), 0.0
        for (value, text), label in zip(card.outputs.items(), labels, strict=True):
            self.starts[value] = name, place + (label + spare) / 2
            self.texts[value] = text
            place += label + spare

    def _edge(self, value: str, target: str) -> None:
        source, start = self.starts[value]
        if any((edge.source, edge.target, edge.start) == (source, target, start) for edge in self.edges):
            return  # cosines and sines come from one pill
        self.edges.append(Edge(source, target, start))
        self.values.append(value)

    def _results(self) -> None:
        """Pills for what goes out: outputs of the graph, and values that other parts read."""
        folded, part = self.folded, self.part
        for node in part.nodes:
            for value in node.outputs:
                if value in folded.graph.outputs:
                    self._edge(value, self._pill(f"output {value}", "output", value))
                if value in self.leaving:
                    id = f"{self.number} out {value}"
                    self.outs[value] = self._pill(id, "out" if part.numbers else "hidden", "out")
                    self._edge(value, id)
                    self.pinned.add(id)


def _card_lines(card: Card) -> list[tuple[str, str]]:
    """What a card says below its name."""
    lines = [("kernel", f"{kernel}{f' ×{n}' if len(card.kernels) > 1 else ''}") for kernel, n in card.kernels.items()]
    lines += [("attribute", text) for text in card.attributes]
    lines += [(mark.kind, f"{mark.input} {mark.text}") for mark in card.marks]
    return [(kind, text if len(text) <= _MOST else f"{text[: _MOST - 1]}…") for kind, text in lines]


def _labels(made: _Boxes, layout: Layout, boxes: Mapping[str, Box]) -> list[Label]:
    return [
        Label(layout.boxes[id][0] + start, layout.boxes[id][1] + boxes[id].height + 13, made.texts[value], id)
        for value, (id, start) in made.starts.items()
        if made.texts.get(value)
    ]
