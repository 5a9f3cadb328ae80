"""Where everything stands: the parts of a folded graph one below the other, each with its boxes and edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from tinyllm.graph.tools.cards import Card
from tinyllm.graph.tools.fold import Folded, Part
from tinyllm.graph.tools.layered import Point
from tinyllm.graph.tools.passages import Passage, passages
from tinyllm.graph.tools.section import Box, Label, Line, Section, section

BETWEEN = 48.0
"""The height between two parts."""
MARGIN, PADDING, TITLE = 24.0, 18.0, 26.0
_TURN = 14.0
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
    """`0-4, 6, 8-9`; of many only the ends, `0, 2, 4 .. 30`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    if len(told) > 8:
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
    beside = Counter[int]()  # edges at the right of each part; of -1, at the left of all
    for each in found:
        source, target = placed[each.source], placed[each.target]
        start, end = source.section.outs[each.value], target.section.ins[each.into]
        ends = source.section.ids[each.value], target.section.ids[each.into], each.value
        if each.target == each.source + 1:
            points = (start, (start[0], start[1] + 20), (end[0], end[1] - 20), end)
            lines.append(Line(*ends, points, "next"))
            continue
        own = each.source == each.target
        side = each.source if own else -1
        beside[side] += 1
        away, step = _TURN * beside[side], 12 + 6 * ((beside[side] - own) % 3)
        x = source.sides[1] + away if own else min(each.sides[0] for each in placed) - away
        down, up = source.bottom + step, target.top - step
        around = (start, (start[0], down), (x, down), (x, up), (end[0], up), end)
        lines.append(Line(*ends, around, "back", f"{each.times}×" if each.times > 1 else ""))
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
