"""The kit catches every wrong reading of every scheme's arrays, by the cases that it makes from the scheme's object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.conformance.zoo import Mutant, caught, results
from tests.conformance.zoo.schemes import OPS, kernel, mutants_of, readings, right
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.conformance.result import Outcome
from tinyllm.registry.registry import Registry
from tinyllm.spec.scheme import Scheme

VALUES = ("values",)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
every_op = pytest.mark.parametrize("op", OPS)


@pytest.fixture
def ternary(install: Callable[..., Registry]) -> Scheme:
    """The scheme that a third party brings."""
    return install("ternary").plugins.schemes["ternary"]


def check_all_are_caught(scheme: Scheme, op: str) -> None:
    """Each mistake is caught by the outputs of the op's smoke cases, and each array of the scheme has one."""
    mutants = mutants_of(scheme, op)
    assert [mutant.name for mutant in mutants if not caught(mutant, aspects=VALUES)] == []
    for part in scheme.parts((1, scheme.block)):
        assert any(mutant.name.startswith(f"{part} ") for mutant in mutants), part


def check_the_right_one_holds(scheme: Scheme, op: str) -> None:
    """The same kernel without its mistake, so that the mistake is all that is caught."""
    seen = list(results(Mutant("", op, "", kernel(op, right), schemes=(scheme,)), right=True, aspects=VALUES))
    assert [result for result in seen if result.outcome is not Outcome.PASS] == []
    assert sum(scheme.name in result.case for result in seen) >= 4


@every_op
@every_scheme
def test_every_wrong_reading_is_caught(scheme: Scheme, op: str) -> None:
    check_all_are_caught(scheme, op)


@every_op
@every_scheme
def test_without_its_mistake_a_kernel_holds(scheme: Scheme, op: str) -> None:
    check_the_right_one_holds(scheme, op)


@every_op
def test_a_scheme_of_a_plugin_is_held_to_the_same(ternary: Scheme, op: str) -> None:
    check_all_are_caught(ternary, op)
    check_the_right_one_holds(ternary, op)


@every_scheme
def test_nearly_every_mistake_changes_a_number(scheme: Scheme) -> None:
    """What is left out is known: numbers that float16 holds are not changed by passing through it."""
    names = {name for name, _, _ in readings(scheme)} | {"rounded through float16"}
    for op in OPS:
        unchanged = names - {mutant.name for mutant in mutants_of(scheme, op)}
        exact = op != "linear" and scheme.name in ("mxfp4", "nvfp4", "tq1_0", "tq2_0", "float16")
        assert unchanged == ({"rounded through float16"} if exact else set())


@every_op
def test_without_the_cases_of_schemes_mistakes_get_through(op: str) -> None:
    (mutant, *_) = mutants_of(SCHEMES["int8"], op)
    assert caught(mutant, aspects=VALUES)
    assert not caught(replace(mutant, spec={"scheme_cases": ""}), aspects=VALUES)
