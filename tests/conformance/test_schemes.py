"""The kit proves pairs of an op and a scheme: every scheme that is registered, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.catalogue.harness import backends, registry
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.checks.check import Check, Plan, Trial
from tinyllm.conformance.checks.unread import unread
from tinyllm.conformance.checks.values import repeats, values
from tinyllm.conformance.collect import collect, trials
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import run
from tinyllm.registry.registry import Registry
from tinyllm.spec.scheme import QuantWeight

Install = Callable[..., Registry]
TAKE_WEIGHTS = [name for name, spec in CATALOGUE.items() if any(i.kind in ("weight", "quant") for i in spec.inputs)]
every_backend = pytest.mark.parametrize("backend", backends())


def test_ops_that_take_weights_are_known() -> None:
    """A further one needs cases for schemes, and stands here then."""
    assert TAKE_WEIGHTS == ["linear", "embedding", "moe_experts", "mha", "dequantize"]


@every_backend
@pytest.mark.parametrize("op", TAKE_WEIGHTS)
def test_a_kernel_runs_smoke_cases_of_every_scheme(op: str, backend: str) -> None:
    plan = Plan(backend, ops=(op,), dtypes=("float32",))
    (trial,) = trials(registry(), plan)
    ran = {check.case for check in values(trial) if check.subject is not None}
    schemes = {
        value.scheme.name
        for case in trial.cases
        if case.id in ran
        for value in trial.example(case, "float32").inputs.values()
        if isinstance(value, QuantWeight)
    }
    assert schemes == set(registry().plugins.schemes)


@pytest.mark.parametrize("op", TAKE_WEIGHTS)
def test_cases_of_other_schemes_can_be_left_out(op: str) -> None:
    """`Plan.schemes` asks for some of them; cases of dense weights stay."""

    def held(*schemes: str) -> tuple[set[str], set[str]]:
        (trial,) = trials(registry(), Plan("numpy", ops=(op,), schemes=schemes))
        examples = {case.id: trial.example(case, "float32") for case in trial.cases}
        quantized = {n: [v for v in e.inputs.values() if isinstance(v, QuantWeight)] for n, e in examples.items()}
        names = {weight.scheme.name for weights in quantized.values() for weight in weights}
        return {n for n, weights in quantized.items() if not weights}, names

    assert held("int8", "q4_k") == (held()[0], {"int8", "q4_k"})


@pytest.mark.skipif("native" not in backends(), reason="needs a backend that lends kernels")
def test_a_lent_kernel_is_held_to_everything_where_it_is_from_alone() -> None:
    """Elsewhere to the smoke cases, unless it is asked for."""

    def tiers(backend: str, **asked: tuple[str, ...]) -> set[str]:
        plan = Plan(backend, ("full",), ops=("embedding",), dtypes=("float32",), **asked)  # type: ignore[arg-type]
        (trial,) = trials(registry(), plan)
        (native,) = [subject for subject in trial.subjects if subject.name == "native"]
        assert native.lender == ("" if backend == "native" else "native")
        return {case.tier for case in trial.cases if trial.tries(native, case, "float32")}

    assert tiers("native") == {"smoke", "full"} and tiers("numpy") == {"smoke"}
    assert tiers("numpy", kernels=("native",)) == {"smoke", "full"}


@pytest.mark.parametrize(("op", "makes", "dtypes"), [("embedding", repeats, 1), ("paged_attention", unread, 3)])
def test_repeated_calls_and_what_nobody_reads_are_left_to_the_lender(
    op: str, makes: Callable[[Trial], Iterator[Check]], dtypes: int
) -> None:
    """Of a lent kernel both are tried on smoke cases alone, repeated calls in one dtype, unless it is asked for."""

    def lent(plan: Plan) -> tuple[int, set[str]]:
        (trial,) = trials(registry(), plan)
        for subject in trial.subjects:
            subject.__dict__["lender"] = "another"
        tiers = {case.id: case.tier for case in trial.cases}
        checks = [check for check in makes(trial) if check.subject]
        return len({check.dtype for check in checks}), {tiers[check.case] for check in checks}

    plan = Plan("numpy", ("full",), ops=(op,))
    (trial,) = trials(registry(), plan)
    assert lent(plan) == (dtypes, {"smoke"})
    names = tuple(subject.name for subject in trial.subjects)
    asked_dtypes, asked_tiers = lent(replace(plan, kernels=names))
    assert asked_dtypes == 3 and "full" in asked_tiers


@every_backend
def test_a_scheme_of_a_plugin_gets_its_checks(install: Install, backend: str) -> None:
    """From its object alone, for every op that takes or makes weights, in every dtype; and they hold."""
    asked, ops = install("ternary"), (*TAKE_WEIGHTS, "quantize")
    plan = Plan(backend, ops=ops)
    checks = [check for check in collect(asked, plan) if "ternary" in check.case]
    dtypes = asked.backend(backend).dtypes
    assert {(c.op, c.dtype) for c in checks if not c.aspect and c.subject} == {(op, d) for op in ops for d in dtypes}
    assert {c.aspect for c in checks} >= {"", "repeat", "sliced", "numpy call", "native call"}
    assert any(is_named(check, "linear", "2x40,N3,ternary/40") for check in checks)
    bad = [r for r in run(asked, plan, checks) if r.outcome not in (Outcome.PASS, Outcome.UNSUPPORTED)]
    assert bad == []


def is_named(check: Check, op: str, case: str) -> bool:
    """Whether a check's id names the case as `linear[...]`."""
    who, _, inner = check.id.partition("[")
    return who.partition("/")[2].partition(":")[0] == op and inner.startswith(f"{case},")
