"""Boxes in rows from top to bottom, and smooth edges between them.

A box's row is one below the lowest of those it reads (longest path); what an edge passes by on its way keeps a lane
free for it. Orders within rows are improved by barycenters (Sugiyama, Tagawa, Toda 1981), and places are least squares
under the order, by pooling neighbours that would overlap. Lengths are pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

GAP = 18.0
"""Between neighbours of a row."""
LANE = 6.0
"""The width that an edge keeps free."""
STUB = 20.0
"""How far an edge goes straight down from its box, where its label stands."""
BEND = 24.0
"""The height in which edges go from one column to another."""
_SWEEPS, _PULLS = 12, 60

Point = tuple[float, float]


@dataclass(frozen=True)
class Size:
    """Of a box. pinned: it stays in the first row however far below its readers are, or without any in the last."""

    width: float
    height: float
    pinned: bool = False


@dataclass(frozen=True)
class Edge:
    """From a box, `start` right of its left side, to the top of another."""

    source: str
    target: str
    start: float


@dataclass(frozen=True)
class Layout:
    """boxes: per name its left top corner. routes: per edge the points that it goes through, vertical at each; every
    second stretch is straight."""

    boxes: dict[str, Point]
    routes: list[list[Point]]
    width: float
    height: float


@dataclass(eq=False)
class _Item:
    """A box, or the lane of an edge in a row that it passes by; each is only itself."""

    name: str
    width: float
    row: int
    x: float = 0.0
    is_lane: bool = False


def layered(sizes: Mapping[str, Size], edges: Sequence[Edge]) -> Layout:
    """Place boxes; the graph has no circle, and `sizes` names sources before their targets."""
    rows_of = _rows(sizes, edges)
    items = {name: _Item(name, size.width, rows_of[name]) for name, size in sizes.items()}
    chains: list[list[_Item]] = []
    for edge in edges:
        chain = [items[edge.source]]
        for row in range(rows_of[edge.source] + 1, rows_of[edge.target]):
            chain.append(_Item("", LANE, row, is_lane=True))
        chains.append([*chain, items[edge.target]])
    rows: list[list[_Item]] = [[] for _ in range(1 + max(rows_of.values(), default=0))]
    for item in (*items.values(), *(lane for chain in chains for lane in chain[1:-1])):
        rows[item.row].append(item)
    links = [
        (upper, lower, edge, upper is chain[0])
        for edge, chain in zip(edges, chains, strict=True)
        for upper, lower in pairwise(chain)
    ]
    _order(rows, links)
    _place(rows, links)
    _straighten(rows, chains)
    return _drawn(rows, sizes, edges, chains)


_Link = tuple[_Item, _Item, Edge, bool]
"""A stretch of an edge from one row to the next; whether it is the first."""


def _rows(sizes: Mapping[str, Size], edges: Sequence[Edge]) -> dict[str, int]:
    rows = dict.fromkeys(sizes, 0)
    above: dict[str, list[str]] = {name: [] for name in sizes}
    below: dict[str, list[str]] = {name: [] for name in sizes}
    for edge in edges:
        above[edge.target].append(edge.source)
        below[edge.source].append(edge.target)
    for name in sizes:
        rows[name] = max((rows[source] + 1 for source in above[name]), default=0)
    for name in reversed(list(sizes)):  # nearer to what reads it, where that makes edges shorter
        if len(below[name]) > len(above[name]) and not sizes[name].pinned:
            rows[name] = min(rows[target] for target in below[name]) - 1
        elif not below[name] and sizes[name].pinned and above[name]:
            rows[name] = max(rows.values())
    return rows


def _order(rows: list[list[_Item]], links: Sequence[_Link]) -> None:
    """Orders the items of each row so that few edges cross."""
    above: dict[_Item, list[_Item]] = {}
    below: dict[_Item, list[_Item]] = {}
    for upper, lower, _, _ in links:
        below.setdefault(upper, []).append(lower)
        above.setdefault(lower, []).append(upper)

    def sweep(order: Iterable[list[_Item]], neighbours: dict[_Item, list[_Item]]) -> None:
        for row in order:
            places = {item: number for row_ in rows for number, item in enumerate(row_)}
            centre = {
                item: sum(places[n] / len(rows[n.row]) for n in near) / len(near)
                if (near := neighbours.get(item, []))
                else places[item] / len(row)
                for item in row
            }
            row.sort(key=lambda item: centre[item])

    best, fewest = [list(row) for row in rows], _crossings(rows, links)
    for number in range(_SWEEPS):
        sweep(rows, above) if number % 2 == 0 else sweep(reversed(rows), below)
        if (crossings := _crossings(rows, links)) < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, found in zip(rows, best, strict=True):
        row[:] = found


def _crossings(rows: list[list[_Item]], links: Sequence[_Link]) -> int:
    places = {item: number for row in rows for number, item in enumerate(row)}
    spans: dict[int, list[tuple[int, float, int]]] = {}
    for upper, lower, edge, first in links:
        spans.setdefault(upper.row, []).append((places[upper], edge.start if first else 0.0, places[lower]))
    return sum(
        (a[:2] < b[:2] and a[2] > b[2]) or (a[:2] > b[:2] and a[2] < b[2])
        for found in spans.values()
        for number, a in enumerate(found)
        for b in found[:number]
    )


def _place(rows: list[list[_Item]], links: Sequence[_Link]) -> None:
    """Centres of all items: near to those they are linked with, lanes straightest of all."""
    pulls: dict[_Item, list[tuple[_Item, float, float]]] = {}
    for upper, lower, edge, first in links:
        offset = edge.start - upper.width / 2 if first else 0.0
        weight = (1.0, 2.0, 40.0)[upper.is_lane + lower.is_lane]
        pulls.setdefault(lower, []).append((upper, offset, weight))
        pulls.setdefault(upper, []).append((lower, -offset, weight))
    for row in rows:
        _spread(row, {})
    for number in range(_PULLS):
        for row in rows if number % 2 == 0 else reversed(rows):
            _spread(row, pulls)


def _straighten(rows: list[list[_Item]], chains: list[list[_Item]]) -> None:
    """Lanes of one edge at one place, as far down as there is room for that; then all from the left side 0 on."""
    for chain in chains:
        run: list[_Item] = []
        low, high = float("-inf"), float("inf")
        for lane in chain[1:-1]:
            least, most = _room(rows[lane.row], lane)
            if run and max(low, least) > min(high, most):
                run, low, high = [], float("-inf"), float("inf")
            run.append(lane)
            low, high = max(low, least), min(high, most)
            place = min(max(sum(item.x for item in run) / len(run), low), high)
            for item in run:
                item.x = place
    left = min((item.x - item.width / 2 for row in rows for item in row), default=0.0)
    for row in rows:
        for item in row:
            item.x -= left


def _room(row: list[_Item], item: _Item) -> tuple[float, float]:
    """Between which centres an item may be moved."""
    place = next(number for number, other in enumerate(row) if other is item)
    least, most = float("-inf"), float("inf")
    if place:
        least = row[place - 1].x + (row[place - 1].width + item.width) / 2 + GAP
    if place + 1 < len(row):
        most = row[place + 1].x - (row[place + 1].width + item.width) / 2 - GAP
    return min(least, item.x), max(most, item.x)


def _spread(row: list[_Item], pulls: Mapping[_Item, list[tuple[_Item, float, float]]]) -> None:
    """Least squares to the wanted centres, with neighbours apart: pool adjacent violators, of the centres less what
    stands left of them."""
    start, offsets = 0.0, []
    for item in row:
        offsets.append(start + item.width / 2)
        start += item.width + GAP
    pools: list[list[float]] = []  # wanted, weight, items
    for item, offset in zip(row, offsets, strict=True):
        found = pulls.get(item, [])
        weight = sum(w for _, _, w in found)
        wanted = sum((n.x + d) * w for n, d, w in found) / weight if weight else item.x
        pools.append([wanted - offset, weight or 0.01, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, v, n), (b, w, m) = pools[-2:]
            pools[-2:] = [[(a * v + b * w) / (v + w), v + w, n + m]]
    places = [centre for centre, _, count in pools for _ in range(int(count))]
    for item, offset, place in zip(row, offsets, places, strict=True):
        item.x = place + offset


def _drawn(
    rows: list[list[_Item]], sizes: Mapping[str, Size], edges: Sequence[Edge], chains: list[list[_Item]]
) -> Layout:
    tops, y = [], 0.0
    heights = [max((sizes[item.name].height for item in row if not item.is_lane), default=0.0) for row in rows]
    for height in heights:
        tops.append(y)
        y += height + STUB + BEND
    boxes = {item.name: (item.x - item.width / 2, tops[item.row]) for row in rows for item in row if not item.is_lane}
    ends = _ends(edges, chains)
    routes = []
    for number, (edge, chain) in enumerate(zip(edges, chains, strict=True)):
        left, top = boxes[edge.source]
        bottom = tops[chain[0].row] + heights[chain[0].row] + STUB
        points = [(left + edge.start, top + sizes[edge.source].height), (left + edge.start, bottom)]
        for lane in chain[1:-1]:
            points += [(lane.x, tops[lane.row]), (lane.x, tops[lane.row] + heights[lane.row] + STUB)]
        routes.append([*points, (ends[number], tops[chain[-1].row])])
    width = max((item.x + item.width / 2 for row in rows for item in row), default=0.0)
    return Layout(boxes, routes, width, y - STUB - BEND if rows else 0.0)


def _ends(edges: Sequence[Edge], chains: list[list[_Item]]) -> dict[int, float]:
    """Where each edge meets the top of its target: side by side, in the order in which they come."""
    into: dict[str, list[int]] = {}
    for number, edge in enumerate(edges):
        into.setdefault(edge.target, []).append(number)
    ends: dict[int, float] = {}
    for numbers in into.values():
        target = chains[numbers[0]][-1]

        def comes_from(number: int) -> float:
            item = chains[number][-2]
            return item.x if item.is_lane else item.x - item.width / 2 + edges[number].start

        numbers.sort(key=comes_from)
        step = min(24.0, (target.width - 12) / len(numbers))
        for place, number in enumerate(numbers):
            ends[number] = target.x + (place - (len(numbers) - 1) / 2) * step
    return ends
