"""Flags crossed pairwise: few rows that hold every pair of values of every two options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

Place = tuple[int, int]
"""An option and one of its values, both by number."""

CANDIDATES = 6
"""Rows that are tried for each one taken: more of them give fewer rows."""


def pairwise(
    options: Mapping[str, Sequence[Any]], allowed: Callable[[Mapping[str, Any]], bool] | None = None
) -> list[dict[str, Any]]:
    """Rows `{option: value}` in which every allowed pair of values of every two options occurs; the same rows at each
    run.

    Args:
        allowed: whether two values may stand together, given as `{option: value, option: value}`. The first value of
            each option must go with all values of the others.
    """
    names = list(options)
    places = [[(o, v) for v in range(len(options[name]))] for o, name in enumerate(names)]

    def fits(a: Place, b: Place) -> bool:
        return allowed is None or allowed({names[o]: options[names[o]][v] for o, v in (a, b)})

    both = [(a, b) for one, other in combinations(places, 2) for a in one for b in other]
    fitting = {pair for pair in both if fits(*pair)}
    missing = {pair: None for pair in both if pair in fitting}
    rows = []
    while missing:
        candidates = [_row(seed, places, missing, fitting) for seed in islice(missing, CANDIDATES)]
        row = max(candidates, key=lambda row: _gain(row, missing))
        for pair in combinations(row, 2):
            missing.pop(pair, None)
        rows.append({names[o]: options[names[o]][v] for o, v in row})
    return rows


def _row(
    seed: tuple[Place, Place], places: list[list[Place]], missing: Mapping[Any, None], fitting: set[tuple[Place, Place]]
) -> list[Place]:
    """A value for each option, beginning with a pair that is missing; each takes in as many further missing pairs as it
    can."""
    row = list(seed)
    for option, values in enumerate(places):
        if option in (seed[0][0], seed[1][0]):
            continue
        open_values = [value for value in values if all(_sorted(value, other) in fitting for other in row)]
        row.append(max(open_values, key=lambda value: sum(_sorted(value, other) in missing for other in row)))
    return sorted(row)


def _sorted(a: Place, b: Place) -> tuple[Place, Place]:
    return (a, b) if a < b else (b, a)


def _gain(row: list[Place], missing: Mapping[Any, None]) -> int:
    return sum(pair in missing for pair in combinations(row, 2))
