"""Where everything stands: the parts of a folded graph one below the other, each with its boxes and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from tinyllm.graph.tools.drawing.cards import Card
from tinyllm.graph.tools.drawing.fold import Folded, Part
from tinyllm.graph.tools.drawing.layered import Point
from tinyllm.graph.tools.drawing.passages import Passage, passages
from tinyllm.graph.tools.drawing.section import Box, Label, Line, Section, section

BETWEEN = 48.0
"""The height between two parts."""
MARGIN, PADDING, TITLE = 24.0, 18.0, 26.0
_TURN = 12.0
"""Between edges side by side, where they go around parts."""


@dataclass(frozen=True)
class Frame:
    """Around the nodes of equal blocks. kind: their number among those that differ."""

    kind: int
    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    """Everything in pixels, from the left top corner.

    lines: edges within a part, and between parts. blocks: per scope the numbers of its blocks, each with its kind.
    """

    width: float
    height: float
    frames: tuple[Frame, ...]
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    blocks: Mapping[str, tuple[tuple[int, int], ...]]


def picture(folded: Folded, cards: Mapping[str, Card]) -> Picture:
    """Place a folded graph."""
    found = passages(folded)
    leaving = [{each.value for each in found if each.source == number} for number in range(len(folded.parts))]
    sections = [section(folded, number, cards, values) for number, values in enumerate(leaving)]
    placed: list[_Placed] = []
    kinds = count()
    y = 0.0
    for number, (part, made) in enumerate(zip(folded.parts, sections, strict=True)):
        pad, title = (PADDING, TITLE) if part.numbers else (0.0, 0.0)
        x = _beside(found, placed, made, number) if placed else 0.0
        height = made.height + 2 * pad + title
        width = max(made.width, 8.2 * len(title_of(part)) if part.numbers else 0.0)
        frame = Frame(next(kinds), title_of(part), x - pad, y, width + 2 * pad, height) if part.numbers else None
        placed.append(_Placed(made.moved(x, y + pad + title), frame))
        y += height + BETWEEN
    lines = [line for each in placed for line in each.section.lines] + _between(found, placed)
    return _from_corner(folded, placed, lines, y - BETWEEN)


def title_of(part: Part) -> str:
    """`layers 0-4, 6-10: 10 times`; of the numbered scope its last word."""
    word = part.scope.rpartition(".")[2] or "block"
    if len(part.numbers) == 1:
        return f"{word.removesuffix('s')} {part.numbers[0]}"
    return f"{word} {ranges(part.numbers)}, {len(part.numbers)} times"


def ranges(numbers: Sequence[int]) -> str:
    """`0-4, 6, 8-9`; where every so many are there, `0, 2, .. 10`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    if len(told) > 4:
        told = [*told[:3], "..", told[-1]]
    return ", ".join(told).replace(", ..,", " ..")


@dataclass(frozen=True)
class _Placed:
    section: Section
    frame: Frame | None

    @property
    def top(self) -> float:
        return self.frame.y if self.frame else self.section.y

    @property
    def bottom(self) -> float:
        return self.frame.y + self.frame.height if self.frame else self.section.y + self.section.height

    @property
    def sides(self) -> tuple[float, float]:
        if self.frame:
            return self.frame.x, self.frame.x + self.frame.width
        return self.section.x, self.section.x + self.section.width


def _beside(found: Sequence[Passage], placed: Sequence[_Placed], made: Section, number: int) -> float:
    """The left side of a part: below what it reads of the one above it, or else below the middle of that one."""
    above = placed[-1].section
    for each in found:
        if each.target == number and each.source == number - 1:
            return above.outs[each.value][0] - made.ins[each.into][0]
    return above.x + (above.width - made.width) / 2


def _between(found: Sequence[Passage], placed: Sequence[_Placed]) -> list[Line]:
    """Edges between parts: straight down to the next one, at the right from a block back to its like, and at the left
    all others."""
    lines: list[Line] = []
    left, right = min(each.sides[0] for each in placed), max(each.sides[1] for each in placed)
    lanes: dict[Literal["left", "right"], int] = {"left": 0, "right": 0}
    for each in found:
        source, target = placed[each.source].section, placed[each.target].section
        start, end = source.outs[each.value], target.ins[each.into]
        name = (source.ids[each.value], target.ids[each.into])
        if each.target == each.source + 1:
            lines.append(Line(*name, each.value, (start, (start[0], start[1] + 20), (end[0], end[1] - 20), end), "next"))
            continue
        side: Literal["left", "right"] = "right" if each.source == each.target else "left"
        lanes[side] += side == "left"
        if side == "left":
            x = left - 10 - _TURN * lanes[side]
        else:
            x = min(right, placed[each.source].sides[1]) + _TURN + 4
        down = placed[each.source].bottom + 12 + 6 * (lanes["left"] % 3) * (side == "left")
        up = placed[each.target].top - 12 - 6 * (lanes["left"] % 3) * (side == "left")
        points = (start, (start[0], down), (x, down), (x, up), (end[0], up), end)
        lines.append(Line(*name, each.value, points, "back", f"{each.times}×" if each.times > 1 else ""))
    return lines


def _from_corner(folded: Folded, placed: Sequence[_Placed], lines: Sequence[Line], height: float) -> Picture:
    """All moved so that the left top corner is at 0."""
    frames = [each.frame for each in placed if each.frame]
    xs = [x for each in placed for x in each.sides] + [p[0] for line in lines for p in line.points]
    left, right = min(xs, default=0.0) - MARGIN, max(xs, default=0.0) + MARGIN

    def moved(points: Sequence[Point]) -> tuple[Point, ...]:
        return tuple((x - left, y + MARGIN) for x, y in points)

    blocks: dict[str, list[tuple[int, int]]] = {}
    for kind, part in enumerate(part for part in folded.parts if part.numbers):
        for number in part.numbers:
            blocks.setdefault(part.scope, []).append((number, kind))
    return Picture(
        right - left,
        height + 2 * MARGIN,
        tuple(replace(frame, x=frame.x - left, y=frame.y + MARGIN) for frame in frames),
        tuple(replace(box, x=box.x - left, y=box.y + MARGIN) for each in placed for box in each.section.boxes),
        tuple(replace(line, points=moved(line.points)) for line in lines),
        tuple(replace(each, x=each.x - left, y=each.y + MARGIN) for p in placed for each in p.section.labels),
        {scope: tuple(sorted(found)) for scope, found in blocks.items()},
    )
