"""A picture of a graph as SVG, light and dark as its reader likes, with no font, style or script from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from tinyllm.graph.tools.layered import Point
from tinyllm.graph.tools.picture import MARGIN, Picture
from tinyllm.graph.tools.section import HEADER, LINE, PAD, Box, Label, Line

HEATS = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2)
"""From which share of the time a node has the next colour."""
_KINDS = {
    "product": "multiplies by weights",
    "memory": "keeps or reads a state",
    "computes": "computes",
    "moves": "only moves numbers",
}
_SQUARE = 12.0
_TIP = ' marker-end="url(#tip)"'

_LIGHT = {
    "back": "#ffffff", "text": "#1c2128", "faint": "#667080", "line": "#9aa5b1", "card": "#ffffff", "edge": "#c9d1da",
    "pill": "#eef1f5", "product": "#dbe7fb", "memory": "#e9defa", "computes": "#dcf1e0", "moves": "#eceff3",
    "weight": "#b26a00", "state": "#7c3aed", "input": "#1d6fb8", "kernel": "#1a7f37",
    "p0": "#2563eb", "p1": "#c2410c", "p2": "#0f766e", "p3": "#a21caf", "p4": "#4d7c0f", "p5": "#be123c",
    "h0": "#f3f4f6", "h1": "#fdf0d5", "h2": "#fbdca4", "h3": "#f8b96b", "h4": "#f28c4b", "h5": "#e5604d",
}  # fmt: skip
_DARK = {
    "back": "#14181d", "text": "#e4e8ec", "faint": "#98a2ae", "line": "#6b7683", "card": "#1c2229", "edge": "#3a434e",
    "pill": "#262d36", "product": "#23395d", "memory": "#3b2a5c", "computes": "#1f4029", "moves": "#2b323b",
    "weight": "#e8a94b", "state": "#b794f6", "input": "#6cb6ff", "kernel": "#57c46e",
    "p0": "#6ea0ff", "p1": "#ff9a5c", "p2": "#4fd1c5", "p3": "#e58af2", "p4": "#a3d65c", "p5": "#ff7b93",
    "h0": "#262c34", "h1": "#3d3524", "h2": "#5b4522", "h3": "#80511f", "h4": "#a4501f", "h5": "#c43d2c",
}  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """What stands above the picture. time: what shares are of, where nodes are coloured by them."""

    title: str
    about: str
    time: str = ""


def svg(picture: Picture, caption: Caption) -> str:
    """The SVG's text, an XML document."""
    head = "".join(_head(picture, caption))
    top = _head_height(picture)
    width, height = max(picture.width, 560.0), picture.height + top
    shift = (width - picture.width) / 2
    hidden = {box.id for box in picture.boxes if box.role == "hidden"}
    body = "".join(
        [
            *(_frame(f.kind, f.title, f.x, f.y, f.width, f.height) for f in picture.frames),
            *(_line(line, line.target not in hidden) for line in picture.lines),
            *(_label(label) for label in picture.labels),
            *(_box(box) for box in picture.boxes if box.role != "hidden"),
        ]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">\n<title>{_text(caption.title)}</title>\n'
        f"<style>{_style()}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
        'markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0 0.5 L8 4 L0 7.5 Z"/></marker></defs>\n'
        f'<rect class="back" width="100%" height="100%"/>\n{head}'
        f'<g transform="translate({_number(shift)} {_number(top)})">\n{body}</g>\n</svg>\n'
    )


def heat(share: float) -> int:
    """Which colour a share of the time has, from 0."""
    return max(number for number, least in enumerate(HEATS) if share >= least)


def _style() -> str:
    rules = [
        "text{font:11px ui-monospace,'DejaVu Sans Mono',monospace}",
        ".title{font:600 17px system-ui,'DejaVu Sans',sans-serif}.about{font:12px system-ui,'DejaVu Sans',sans-serif}",
        ".op{font:600 13px ui-monospace,'DejaVu Sans Mono',monospace}.of{font-weight:600;font-size:12px}",
        ".e{fill:none;stroke-width:1.4}.m{text-anchor:middle}.r{text-anchor:end}.s{paint-order:stroke;stroke-width:4}",
        ".f{fill-opacity:.045;stroke-opacity:.6;stroke-width:1.2}.k{stroke-dasharray:5 4}",
        ".n:hover .c,.n.on .c{stroke-width:2.5}.n .o{fill:none}",
    ]
    return "".join(rules) + _colours(_LIGHT) + f"@media(prefers-color-scheme:dark){{{_colours(_DARK)}}}"


def _colours(of: Mapping[str, str]) -> str:
    rules = [
        f".back{{fill:{of['back']}}}text{{fill:{of['text']}}}.faint{{fill:{of['faint']}}}.tip{{fill:{of['line']}}}",
        f".e{{stroke:{of['line']}}}.s{{stroke:{of['back']};fill:{of['faint']}}}",
        f".c{{fill:{of['card']};stroke:{of['edge']}}}.pill{{fill:{of['pill']};stroke:{of['edge']}}}",
    ]
    rules += [f".h-{name}{{fill:{of[name]}}}" for name in (*_KINDS, *(f"h{n}" for n in range(len(HEATS))))]
    rules += [f".t-{name}{{fill:{of[name]}}}" for name in ("weight", "state", "input", "kernel")]
    rules += [f".p{n}{{fill:{of[f'p{n}']};stroke:{of[f'p{n}']}}}.tp{n}{{fill:{of[f'p{n}']}}}" for n in range(6)]
    return "".join(rules)


def _head_height(picture: Picture) -> float:
    return 76.0 + 22.0 * len(picture.blocks)


def _head(picture: Picture, caption: Caption) -> Iterable[str]:
    """Title, what the colours mean, and per scope a square for each block in the colour of its kind."""
    yield f'<text class="title" x="{MARGIN:.0f}" y="32">{_text(caption.title)}</text>\n'
    yield f'<text class="about faint" x="{MARGIN:.0f}" y="51">{_text(caption.about)}</text>\n'
    x, y = MARGIN, 70.0
    if caption.time:
        names = [f"under {HEATS[1]:.1%}", *(f"{least:.1%} on".replace(".0%", "%") for least in HEATS[1:])]
        legend = [*((f"h{number}", name) for number, name in enumerate(names)), ("", f"of the time ({caption.time})")]
    else:
        legend = list(_KINDS.items())
    for name, text in legend:
        if name:
            yield f'<rect class="h-{name}" x="{x:.0f}" y="{y - 9:.0f}" width="11" height="11" rx="2.5"/>'
            x += 16
        yield f'<text class="about faint" x="{x:.0f}" y="{y:.0f}">{_text(text)}</text>\n'
        x += 6.4 * len(text) + 18
    for scope, blocks in picture.blocks.items():
        y += 22
        room = max(picture.width, 560.0) - 2 * MARGIN - 90
        step = min(_SQUARE + 3, room / len(blocks))
        name = _text(scope.rpartition(".")[2] or "blocks")
        yield f'<text class="about faint" x="{MARGIN:.0f}" y="{y:.0f}">{name}</text>'
        for place, (number, kind) in enumerate(blocks):
            yield (
                f'<rect class="p{kind % 6}" x="{_number(MARGIN + 60 + place * step)}" y="{y - 10:.0f}" '
                f'width="{_number(step - 3 if step > 6 else step)}" height="{_SQUARE:.0f}" rx="2">'
                f"<title>{number}</title></rect>"
            )
        yield "\n"


def _frame(kind: int, title: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<g><rect class="f p{kind % 6}" x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" '
        f'height="{_number(height)}" rx="10"/>'
        f'<text class="of tp{kind % 6}" x="{_number(x + 14)}" y="{_number(y + 21)}">{_text(title)}</text></g>\n'
    )


def _line(line: Line, tip: bool) -> str:
    ends = f'data-from="{_text(line.source)}" data-to="{_text(line.target)}"'
    if line.kind != "back":
        return f'<path class="e" d="{_smooth(line.points)}"{_TIP if tip else ""} {ends}/>\n'
    x, y = line.points[2][0] + 5, (line.points[2][1] + line.points[3][1]) / 2
    text = f'<text class="s" x="{_number(x)}" y="{_number(y)}">{_text(line.text)}</text>' if line.text else ""
    return f'<path class="e k" d="{_around(line.points)}"{_TIP if tip else ""} {ends}/>{text}\n'


def _smooth(points: tuple[Point, ...]) -> str:
    """Straight and bent stretches by turns; a bend begins and ends upright."""
    path = [f"M{_number(points[0][0])} {_number(points[0][1])}"]
    for number, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
        if number % 2 == 0 or abs(x - to_x) < 0.5:
            path.append(f"L{_number(to_x)} {_number(to_y)}")
        else:
            middle = _number((y + to_y) / 2)
            path.append(f"C{_number(x)} {middle} {_number(to_x)} {middle} {_number(to_x)} {_number(to_y)}")
    return "".join(path)


def _around(points: tuple[Point, ...], radius: float = 8.0) -> str:
    """Straight stretches with round corners."""
    path = [f"M{_number(points[0][0])} {_number(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _toward(corner, before, radius), _toward(corner, after, radius)
        path.append(f"L{_number(start[0])} {_number(start[1])}Q{_number(corner[0])} {_number(corner[1])} ")
        path.append(f"{_number(end[0])} {_number(end[1])}")
    return "".join([*path, f"L{_number(points[-1][0])} {_number(points[-1][1])}"])


def _toward(point: Point, other: Point, distance: float) -> Point:
    dx, dy = other[0] - point[0], other[1] - point[1]
    length = (dx * dx + dy * dy) ** 0.5
    part = min(distance, length / 2) / length if length else 0.0
    return point[0] + dx * part, point[1] + dy * part


def _label(label: Label) -> str:
    return f'<text class="s m" x="{_number(label.x)}" y="{_number(label.y)}">{_text(label.text)}</text>\n'


def _box(box: Box) -> str:
    place = " ".join(f'{k}="{_number(getattr(box, k))}"' for k in ("x", "y", "width", "height"))
    if box.card is None:
        tone, middle = "t-input" if box.role == "input" else "faint", box.x + box.width / 2
        return (
            f'<g data-node="{_text(box.id)}"><rect class="pill" {place} rx="11"/>'
            f'<text class="m {tone}" x="{_number(middle)}" y="{_number(box.y + 15)}">{_text(box.text)}</text></g>\n'
        )
    card = box.card
    colour = f"h-{card.kind}" if card.share is None else f"h-h{heat(card.share)}"
    soft = ' class="faint"' if card.share is None else ""
    left, right = box.x + PAD, box.x + box.width - PAD
    rise, across = _number(HEADER - 7), _number(box.width - 14)
    top = f"M{_number(box.x)} {_number(box.y + HEADER)}v-{rise}q0 -7 7 -7h{across}q7 0 7 7v{rise}Z"
    header = f'<path d="{top}"' if box.lines else f'<rect {place} rx="7"'
    parts = [
        f'<g class="n" data-node="{_text(box.id)}">',
        f'<rect class="c" {place} rx="7"/>{header} class="{colour}"/><rect class="c o" {place} rx="7"/>',
        f'<text class="op" x="{_number(left)}" y="{_number(box.y + 17)}">{_text(card.node.op)}</text>',
        f'<text{soft} x="{_number(left)}" y="{_number(box.y + 32)}">{_text(card.name)}</text>',
    ]
    if card.share is not None:
        parts.append(f'<text class="r" x="{_number(right)}" y="{_number(box.y + 17)}">{card.share:.1%}</text>')
    for number, (kind, text) in enumerate(box.lines):
        base = box.y + HEADER + 14 + number * LINE
        parts.append(_mark(kind, left, base))
        indent = 14 if kind in ("weight", "state", "input") else 0
        tone = "faint" if kind == "attribute" else f"t-{kind}" if kind == "kernel" else ""
        parts.append(f'<text class="{tone}" x="{_number(left + indent)}" y="{_number(base)}">{_text(text)}</text>')
    return "".join([*parts, "</g>\n"])


def _mark(kind: str, x: float, y: float) -> str:
    """The small sign of a weight (a square), a state (a disc) or an input (a triangle)."""
    if kind == "weight":
        return f'<rect class="t-weight" x="{_number(x)}" y="{_number(y - 8)}" width="8" height="8" rx="1.5"/>'
    if kind == "state":
        return f'<circle class="t-state" cx="{_number(x + 4)}" cy="{_number(y - 4)}" r="4.2"/>'
    if kind == "input":
        return f'<path class="t-input" d="M{_number(x)} {_number(y - 8)}l8 4l-8 4Z"/>'
    return ""


def _text(text: str) -> str:
    return escape("".join(c if c >= " " and c not in "\x7f\ufffe\uffff" else "\ufffd" for c in text))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
