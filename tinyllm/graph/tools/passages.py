"""What goes from part to part of a folded graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from tinyllm.graph.tools.fold import Folded, Part


@dataclass(frozen=True)
class Passage:
    """A value that goes from a part to a part, maybe the same one, by its names in both. times: how often it does."""

    source: int
    value: str
    target: int
    into: str
    times: int = field(compare=False, default=1)


def passages(folded: Folded) -> list[Passage]:
    """All of them, in the order of their targets; values that blocks know by name are none."""
    home: dict[str, tuple[int, str]] = {}
    for number, part in enumerate(folded.parts):
        for node in part.nodes:
            for value in node.outputs:
                home |= dict.fromkeys(part.each(value), (number, value))
    found: Counter[Passage] = Counter()
    for number, part in enumerate(folded.parts):
        for value in _entering(folded, part):
            for actual in part.each(value):
                source, shown = home[actual]
                found[Passage(source, shown, number, value)] += 1
    return [replace(each, times=times) for each, times in found.items()]


def _entering(folded: Folded, part: Part) -> list[str]:
    made = {value for node in part.nodes for value in node.outputs}
    read = dict.fromkeys(value for node in part.nodes for value in node.inputs.values())
    return [v for v in read if v in folded.graph.types and v not in made and not folded.is_named(part, v)]
