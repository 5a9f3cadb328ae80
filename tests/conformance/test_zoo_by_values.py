"""The kit catches the mutants that outputs show, class by class, in tier `full`."""

from __future__ import annotations

from functools import cache

import pytest

from tests.conformance.zoo import BY_VALUES, Mutant, first_caught
from tinyllm.conformance.result import Result

VALUES = ("values",)
ALL = [mutant for mutants in BY_VALUES.values() for mutant in mutants]
GROUPS = tuple(dict.fromkeys((m.op, m.library) for m in ALL))


def of_group(op: str, library: str) -> list[Mutant]:
    return [m for m in ALL if (m.op, m.library) == (op, library)]


@cache
def found_in(op: str, library: str) -> dict[str, Result]:
    return first_caught(of_group(op, library), tier="full", aspects=VALUES)


@pytest.mark.parametrize("mutant", ALL, ids=lambda m: f"{m.op}-{m.name}")
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    found = found_in(mutant.op, mutant.library).get(mutant.name)
    assert found is not None, f"{mutant.name} gets through"
    assert found.how == "kernel"
    assert found.message


@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_without_their_mistakes_kernels_hold(group: tuple[str, str]) -> None:
    kernels = {m.function.__module__: m for m in of_group(*group)}
    assert first_caught([*kernels.values()], right=True, tier="full", aspects=VALUES) == {}


def test_each_class_has_five_and_more() -> None:
    assert min(map(len, BY_VALUES.values())) >= 5
    assert len({(m.op, m.name) for m in ALL}) == len(ALL)
    assert all(0 < len(m.about) <= 120 for m in ALL)
