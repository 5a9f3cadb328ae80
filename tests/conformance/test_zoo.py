"""The kit catches every mutant of the zoo, for its mistake alone; and a kit with any part taken out lets one
through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.conformance.zoo import MUTANTS, Mutant, caught, results, zoo_registry
from tests.conformance.zoo.undisturbed import undisturbed
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance import judge
from tinyllm.conformance.bounds import Bound
from tinyllm.conformance.checks.check import TIERS
from tinyllm.conformance.collect import ASPECTS
from tinyllm.conformance.result import BAD, Outcome, Result

pytestmark = pytest.mark.filterwarnings("ignore:kernel left out")  # it is told, and the check of signatures fails
BY_SPECIAL_ASPECT = [m for m in MUTANTS if m.caught_by not in ("values", "origin")]
RIGHT = {(m.op, m.tier, m.function.__module__, m.library): m for m in MUTANTS}


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    with undisturbed():
        yield


every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.op}-{m.name}")


def named(name: str) -> Mutant:
    return next(m for m in MUTANTS if m.name == name)


def aspect_of(result: Result) -> str:
    """The name in `ASPECTS` of what a result is about."""
    kinds = {
        "": "values",
        "repeat": "repeats",
        "signature": "signatures",
        "refusal": "refusals",
        "property": "properties",
    }
    kinds |= dict.fromkeys(("sliced", "reversed", "transposed", "broadcast"), "layouts")
    return kinds.get(result.aspect) or {"call": "calls", "error": "errors"}.get(
        result.aspect.rpartition(" ")[2], result.aspect
    )


@every_mutant
def test_every_mutant_is_caught_by_the_aspect_it_names(mutant: Mutant) -> None:
    found = caught(mutant)
    assert found, f"{mutant.name} gets through"
    if mutant.caught_by == "origin":
        assert found[0].how != "kernel"
        assert found[0].outcome is Outcome.PASS
    else:
        assert found[0].outcome in BAD
        assert aspect_of(found[0]) == mutant.caught_by, found[0]
        assert found[0].message


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.tier != "smoke"], ids=lambda m: f"{m.op}-{m.name}")
def test_no_smoke_case_shows_a_mutant_of_a_later_tier(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "properties")
    assert not caught(mutant, "smoke")


def test_the_zoo_is_large_and_mostly_caught_in_smoke() -> None:
    assert len(MUTANTS) >= 36
    assert sum(m.tier == "smoke" for m in MUTANTS) >= 30
    assert len({(m.op, m.name) for m in MUTANTS}) == len(MUTANTS)
    assert {m.tier for m in MUTANTS} <= {*TIERS}
    assert {m.op for m in MUTANTS} == {*CATALOGUE}
    assert all(0 < len(m.about) <= 120 for m in MUTANTS)


@pytest.mark.parametrize(
    "mutant", [*RIGHT.values()], ids=["-".join((*about, where.rpartition(".")[2])) for *about, where, _ in RIGHT]
)
def test_without_its_mistake_a_kernel_holds(mutant: Mutant) -> None:
    found = list(results(mutant, right=True))
    assert [r for r in found if r.outcome is not Outcome.PASS and r.case != "views"] == []
    assert {r.how for r in found} <= {"", "kernel"}
    assert len(found) > 40


def test_all_else_runs_by_reference_in_the_zoo() -> None:
    registry = zoo_registry(named("wrong sign"))
    assert not registry.plugins.broken
    assert [k.op for k in registry.plugins.kernels if k.backend == "zoo"] == ["silu"]
    assert registry.backend("zoo").xp is np


def test_a_failure_names_the_case_and_the_element() -> None:
    (result,) = caught(named("missing scale"))
    assert result.id == "zoo/sdpa:mutant[L3,S5,D4,f32]"
    assert result.worst is not None
    assert result.worst > 1000
    assert result.where
    assert "tinyllm check zoo" in result.snippet


# The kit, broken on purpose: each time a mutant gets through, so that the tests above would go red.


def without(monkeypatch: pytest.MonkeyPatch, *aspects: str) -> None:
    kept = {n: a for n, a in ASPECTS.items() if n not in aspects}
    monkeypatch.setattr("tinyllm.conformance.collect.ASPECTS", kept)


def test_every_aspect_has_a_mutant() -> None:
    assert {m.caught_by for m in MUTANTS} == {*ASPECTS, "origin"} - {
        "oracles",
        "fuzz",
    }  # these run only when they are asked for


@pytest.mark.parametrize("mutant", BY_SPECIAL_ASPECT, ids=lambda m: f"{m.caught_by}-{m.name}")
def test_without_an_aspect_its_mutants_get_through(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, mutant.caught_by, *mutant.also_by)
    assert not caught(mutant)


@pytest.mark.parametrize("name", ["float32 for float16", "squares in float16"])
def test_without_values_a_wrong_dtype_gets_through(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "values")
    assert not caught(named(name))


def test_with_bounds_ten_times_as_wide_a_mutant_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = judge.judge_array

    def loose(output: Any, wanted: Any, bound: Bound, rounded: int) -> judge.Verdict:
        return exact(output, wanted, replace(bound, most=10 * bound.most), rounded)

    monkeypatch.setattr(judge, "judge_array", loose)
    assert not caught(named("a constant of five digits"))
    assert not caught(named("root by one Newton step"))


def test_without_the_mean_bound_a_small_error_of_all_elements_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = caught(named("root by one Newton step"))
    assert result.message.startswith("mean error")
    monkeypatch.setattr(judge, "MEAN_SHARE", np.inf)
    assert not caught(named("root by one Newton step"))


def test_without_the_elementwise_bound_one_wrong_element_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, wide = judge.judge_array, 1e9

    def mean_only(output: Any, wanted: Any, bound: Bound, rounded: int) -> judge.Verdict:
        return exact(output, wanted, replace(bound, most=wide * bound.most), rounded)

    (result,) = caught(named("one wrong element"))
    assert "; 1 of " in result.message
    monkeypatch.setattr(judge, "judge_array", mean_only)
    monkeypatch.setattr(judge, "MEAN_SHARE", judge.MEAN_SHARE / wide)
    assert not caught(named("one wrong element"))
    assert caught(named("root by one Newton step"))  # the mean bound is as it was


def test_without_a_look_at_who_computes_handed_over_work_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyllm.conformance.run.origin", lambda trial, subject, dtype: "kernel")
    monkeypatch.setattr("tinyllm.conformance.run.Watch.found", "kernel")
    assert not caught(named("work handed to the reference"))
    assert not caught(named("work handed to another backend"))


def test_if_undeclared_were_no_failure_a_mutant_would_get_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.conformance.zoo.cage.BAD", BAD - {Outcome.UNDECLARED})
    assert not caught(named("not supported after all"))
