"""What a backend may not get by with: work handed over in some dtype, views of another dtype, kernels that never run,
excuses of others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import available
from tests.catalogue.harness import registry as every_plugin
from tests.conformance.fake_backend import fake_registry
from tests.plugins.conftest import environment, write_package
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance import isolate
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.isolate import WorkerError, isolated_ops, run_isolated
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Way, by_op
from tinyllm.conformance.result import BAD, Outcome, Result
from tinyllm.conformance.run import run
from tinyllm.errors import PluginError
from tinyllm.plugins.declarations import ExpectedFailure, Widened
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry

HALVES = frozenset({"float16", "bfloat16"})


def made(
    function: Callable[..., Any],
    op: str,
    *,
    dtypes: frozenset[str] = HALVES | {"float32"},
    declarations: Any = (),
    **kernel: Any,
) -> Registry:
    """A registry with the backend `fake`, whose one kernel is this."""
    found = fake_registry(
        Kernel("fake", op, "own", lambda: function, **kernel),
        dtypes=dtypes,
        tinyllm_declarations=hookimpl(lambda: list(declarations)),
    )
    assert not found.plugins.broken, found.plugins.broken
    return found


def checked(registry: Registry, op: str, tier: str = "smoke") -> list[Result]:
    plan = Plan("fake", (tier,), ops=(op,))
    return list(run(registry, plan, collect(registry, plan)))


def silu(x: Any) -> Any:
    wide = np.asarray(x, np.result_type(x.dtype, np.float32))
    with np.errstate(over="ignore"):
        return np.asarray(wide / (1 + np.exp(-wide))).astype(x.dtype)


def test_a_right_kernel_holds() -> None:
    """The others fail by their mistakes alone."""
    results = checked(made(silu, "silu"), "silu", "full")
    assert {r.outcome for r in results} == {Outcome.PASS, Outcome.UNSUPPORTED}  # float64 is not there
    assert {r.how for r in results if r.kernel} == {"kernel"}


@pytest.mark.parametrize(("backend", "how"), [("numpy", "reference"), ("torch", "kernel")])
def test_an_op_composed_of_others_is_done_by_those_who_do_them(backend: str, how: str) -> None:
    """numpy has no kernel for the attention in `mha`, torch has one for every part."""
    if not available(backend):
        pytest.skip(f"{backend} is not here")
    plan = Plan(backend, ops=("mha",), dtypes=("float32",))
    checks = [check for check in collect(every_plugin(), plan) if check.case.startswith("some-") or check.case == "L0"]
    results = [r for r in run(every_plugin(), plan, checks) if r.kernel]
    assert results and {(r.kernel, r.how) for r in results} == {("composed", how)}


def test_work_that_is_handed_over_in_one_dtype_is_seen() -> None:
    def half(x: Any) -> Any:
        return (
            silu(x) if x.dtype == np.float32 else CATALOGUE["silu"].reference(np, x.astype(np.float32)).astype(x.dtype)
        )

    results = [r for r in checked(made(half, "silu"), "silu") if r.kernel and not r.aspect]
    assert {r.dtype: r.how for r in results if r.outcome is Outcome.PASS} == {
        "float32": "kernel",
        "float16": "reference",
        "bfloat16": "reference",
    }


@pytest.mark.parametrize("dtypes", [frozenset({"float16"}), HALVES | {"float32"}])
def test_views_are_tried_in_every_dtype(dtypes: frozenset[str]) -> None:
    """A kernel that reads a view as if it lay in one piece, but in 16 bits only."""

    def careless(x: Any) -> Any:
        contiguous = x.dtype == np.float32 or x.flags.c_contiguous
        return silu(x) if contiguous else silu(np.zeros(x.shape, x.dtype))

    bad = [r for r in checked(made(careless, "silu", dtypes=dtypes), "silu", "full") if r.outcome in BAD]
    assert {"float16"} <= {r.dtype for r in bad} <= HALVES
    assert "sliced" in {r.aspect for r in bad}


def test_a_kernel_that_never_runs_does_not_hold_an_op() -> None:
    registry = made(silu, "silu", supports=lambda call: "not today")
    report = Report.begin(registry, Plan("fake"))
    for result in checked(registry, "silu"):
        report.add(result)
    assert {s.op: s.holds for s in by_op(report) if s.way is Way.OWN} == {"silu": None}


@pytest.mark.parametrize("supports", [lambda call: sys.exit(0), lambda call: None])
def test_a_supports_that_breaks_is_a_failure(supports: Any) -> None:
    """It has declared nothing."""
    outcomes = {
        r.outcome
        for r in checked(made(silu, "silu", supports=supports), "silu")
        if r.dtype == "float32" and not r.aspect
    }
    assert outcomes == {Outcome.FAIL}


def test_an_inexact_kernel_is_told_and_still_bound() -> None:
    rough = checked(made(lambda x: np.asarray(silu(x) * np.float32(1.001), x.dtype), "silu", exact=False), "silu")
    values = [r for r in rough if r.kernel and not r.aspect and r.outcome is Outcome.PASS and r.where]
    assert values and all("inexact kernel" in r.declared[0] for r in values)
    wrong = checked(made(lambda x: np.asarray(silu(x) * np.float32(0.95), x.dtype), "silu", exact=False), "silu")
    assert any(r.outcome is Outcome.FAIL for r in wrong)


def test_an_expected_failure_can_name_its_aspect() -> None:
    def careless(x: Any) -> Any:
        return silu(x) if x.flags.c_contiguous or not x.size else np.zeros(x.shape, x.dtype)

    about: dict[str, Any] = {"link": "https://example.org/1", "since": "2026-01-31"}
    entries = [
        ExpectedFailure("fake", "silu", "views", aspect=a, case="2x3x4", **about) for a in ("sliced", "transposed")
    ]
    results = checked(made(careless, "silu", dtypes=frozenset({"float32"}), declarations=entries), "silu")
    told = {(r.aspect, r.case): r.outcome for r in results if r.outcome in (Outcome.XFAIL, Outcome.XPASS)}
    assert told == {("sliced", "2x3x4"): Outcome.XFAIL, ("transposed", "2x3x4"): Outcome.XFAIL}


def test_a_widened_bound_is_told_only_where_it_was_needed() -> None:
    entry = Widened("fake", "silu", "few digits", factor=50.0)
    off = made(
        lambda x: np.asarray(silu(x) * np.float32(1 + 2e-6), x.dtype),
        "silu",
        dtypes=frozenset({"float32"}),
        declarations=[entry],
    )
    results = [r for r in checked(off, "silu") if r.kernel and not r.aspect]
    assert {r.outcome for r in results} == {Outcome.PASS}
    assert {bool(r.declared) for r in results} == {True, False}  # empty arrays need no excuse
    assert all(not r.declared for r in checked(made(silu, "silu", declarations=[entry]), "silu"))


def test_a_plugin_excuses_nobody_else() -> None:
    found = fake_registry(tinyllm_declarations=hookimpl(lambda: [Widened("theirs", "*", "because", factor=1000.0)]))
    (error,) = found.plugins.broken.values()
    assert isinstance(error, PluginError) and "theirs" in str(error)


def test_a_hang_before_any_check_costs_one_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`supports` never answers: the process is cut off, that op fails, and the next is checked. A backend that hangs is
    told as such."""
    write_package("stubborn", tmp_path)
    init = tmp_path / "stubborn" / "__init__.py"
    whole = init.read_text().replace("for f in (softmax, add, silu, swiglu)]", "for f in (softmax, add, swiglu)]")
    asleep = 'Kernel("stubborn", "silu", "own", "stubborn:silu", lambda call: time.sleep(3600) or True)'
    init.write_text(whole.replace("return [*kernels,", f"return [*kernels, {asleep},"))
    monkeypatch.setenv("PYTHONPATH", environment(tmp_path)["PYTHONPATH"])
    monkeypatch.setattr(isolate, "LOADING", 5.0)
    plan = Plan("stubborn", dtypes=("float32",))
    assert "silu" in isolated_ops(plan, 1.0)
    results = list(run_isolated(plan, ["silu", "gelu"], 1.0))
    (cut_off,) = [r for r in results if r.op == "silu"]
    assert cut_off.outcome is Outcome.FAIL and "cut off" in cut_off.message
    assert {r.outcome for r in results if r.op == "gelu"} == {Outcome.PASS, Outcome.UNSUPPORTED}
    init.write_text(whole + "\ntime.sleep(3600)\n")
    with pytest.raises(WorkerError, match="while it was loaded: no answer"):
        isolated_ops(plan, 1.0)
