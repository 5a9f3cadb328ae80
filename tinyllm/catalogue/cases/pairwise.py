"""Options crossed pairwise: a few rows in which every pair of values of every two options occurs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

Choice = tuple[int, int]
"""An option and one of its values, each by its index."""

CANDIDATES = 6
"""Rows that are built for each one that is taken: more candidates give fewer rows."""


def pairwise(
    options: Mapping[str, Sequence[Any]], allowed: Callable[[Mapping[str, Any]], bool] | None = None
) -> list[dict[str, Any]]:
    """Rows `{option: value}` in which every allowed pair of values of every two options occurs; the same rows at each
    run. As in AETG (Cohen et al. 1997): several rows are built, and the one with the most missing pairs is taken.

    Args:
        allowed: whether two values may be in one row; it is given `{option: value, option: value}`. The first value of
            each option must be allowed with all values of the others.
    """
    names = list(options)
    choices = [[(o, v) for v in range(len(options[name]))] for o, name in enumerate(names)]

    def fits(a: Choice, b: Choice) -> bool:
        return allowed is None or allowed({names[o]: options[names[o]][v] for o, v in (a, b)})

    pairs = [(a, b) for one, other in combinations(choices, 2) for a in one for b in other]
    fitting = {pair for pair in pairs if fits(*pair)}
    missing = {pair: None for pair in pairs if pair in fitting}
    rows = []
    while missing:
        candidates = [_row(seed, choices, missing, fitting) for seed in islice(missing, CANDIDATES)]
        row = max(candidates, key=lambda row: sum(pair in missing for pair in combinations(row, 2)))
        for pair in combinations(row, 2):
            missing.pop(pair, None)
        rows.append({names[o]: options[names[o]][v] for o, v in row})
    return rows


def _row(
    seed: tuple[Choice, Choice],
    choices: list[list[Choice]],
    missing: Mapping[Any, None],
    fitting: set[tuple[Choice, Choice]],
) -> list[Choice]:
    """A row that begins with a missing pair; for each further option, the value that adds most other missing pairs."""
    row = list(seed)
    for option, values in enumerate(choices):
        if option in (seed[0][0], seed[1][0]):
            continue
        allowed = [value for value in values if all(_sorted(value, other) in fitting for other in row)]
        row.append(max(allowed, key=lambda value: sum(_sorted(value, other) in missing for other in row)))
    return sorted(row)


def _sorted(a: Choice, b: Choice) -> tuple[Choice, Choice]:
    return (a, b) if a < b else (b, a)
