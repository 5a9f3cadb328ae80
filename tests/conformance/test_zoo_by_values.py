"""The kit catches the mutants that outputs show, class by class, in tier `full`."""

from __future__ import annotations

from functools import cache

import pytest

from tests.conformance.zoo import BY_VALUES, Mutant, first_caught
from tinyllm.conformance.result import Result

VALUES = ("values",)
ALL = [mutant for mutants in BY_VALUES.values() for mutant in mutants]
GROUPS = tuple(dict.fromkeys((m.op, m.library) for m in ALL))

UNSEEN: dict[str, tuple[str, ...]] = {
    "linear": ("tail of two columns dropped",),
    "rms_norm": (
        "rows past 65,535",
        "a row past 128",
    ),
    "softmax": (
        "maximum of 256 rows for an inner axis",
        "rows past 512 left out for an inner axis",
    ),
    "rope_rotate": ("NaN to 0",),
    "sdpa": (
        "mask of one tile",
        "first row past a tile",
        "second tile for all",
        "tanh of exponentials",
        "sinks of each block",
        "heads of whole sixteens",
        "two thousand keys",
    ),
    "gqa": (
        "first head past a tile",
        "key mask of one tile",
        "tanh of a fraction",
        "running maximum from -1e4",
        "heads read as 128",
        "groups in eights",
    ),
    "paged_attention": (
        "no cap far out",
        "no sinks in several blocks",
        "groups in eights",
        "two thousand keys",
        "after 32 sequences",
    ),
    "add": ("rows past 65,535",),
    "embedding": (
        "ids in 16 bits",
        "offsets of rows in 20 bits",
        "product with ones and zeros",
    ),
    "kv_append": (
        "slots in 16 bits",
        "pages in 8 bits",
    ),
    "merge_heads": ("heads of whole sixteens",),
}
"""Those that nothing catches yet, by their op."""


def of_group(op: str, library: str) -> list[Mutant]:
    return [m for m in ALL if (m.op, m.library) == (op, library)]


@cache
def found_in(op: str, library: str) -> dict[str, Result]:
    return first_caught(of_group(op, library), tier="full", aspects=VALUES)


def marked(mutant: Mutant) -> object:
    unseen = pytest.mark.xfail(strict=True, reason="no case shows it")
    return pytest.param(
        mutant, id=f"{mutant.op}-{mutant.name}", marks=unseen if mutant.name in UNSEEN.get(mutant.op, ()) else ()
    )


@pytest.mark.parametrize("mutant", [marked(mutant) for mutant in ALL])
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
    caught = [[m for m in mutants if m.name not in UNSEEN.get(m.op, ())] for mutants in BY_VALUES.values()]
    assert min(map(len, caught)) >= 5
    assert len({(m.op, m.name) for m in ALL}) == len(ALL)
    assert all(0 < len(m.about) <= 120 for m in ALL)
