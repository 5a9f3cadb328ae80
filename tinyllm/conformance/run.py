"""Runs a check, and turns what comes of it into one of the six outcomes."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

from tinyllm.conformance.bounds import INEXACT, MEAN_SHARE, step_factor
from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Plan, Trial
from tinyllm.conformance.checks.origin import Watch, origin
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.node_case import is_case_file
from tinyllm.conformance.result import BAD, Outcome, Result
from tinyllm.conformance.subject import Subject
from tinyllm.errors import UnsupportedError
from tinyllm.plugins.declarations import (
    Declaration,
    ExpectedFailure,
    RoundedSteps,
    Unrepeatable,
    Widened,
)
from tinyllm.registry.registry import Registry

EXPECTED = {Outcome.PASS: Outcome.XPASS, Outcome.FAIL: Outcome.XFAIL, Outcome.UNDECLARED: Outcome.XFAIL}
"""What an outcome is called where a declaration says that the check fails."""


class Runner:
    """Runs the checks of a plan; finds out once for each kernel who does its work."""

    def __init__(self, registry: Registry, plan: Plan) -> None:
        self.registry, self.plan = registry, plan
        self._origins: dict[tuple[str, str], str] = {}

    def __call__(self, check: Check) -> Result:
        """The result; whatever a kernel raises is one."""
        declared = [
            d
            for d in self.registry.plugins.declarations
            if d.covers(check.backend, check.op, check.kernel, check.dtype, check.case, check.aspect)
        ]
        watch = (
            Watch(self.registry, check.subject) if check.subject and check.subject.kernel and not check.aspect else None
        )
        if check.subject and watch:
            check.subject.watch = watch
        start = time.perf_counter()
        factor = admitted_factor(declared, check.dtype)
        outcome, verdict = _outcome(check, Admitted(factor, any(isinstance(d, Unrepeatable) for d in declared)))
        seconds = time.perf_counter() - start
        if check.subject:
            check.subject.watch = nullcontext()
        if any(isinstance(d, ExpectedFailure) for d in declared):
            outcome = EXPECTED.get(outcome, outcome)
        used = tuple(d.reason for d in declared if _used(d, check.dtype, outcome, verdict))
        if check.subject and not check.subject.exact and outcome is Outcome.PASS and verdict.where:
            used += (f"inexact kernel: an ulp is {INEXACT:g} of the scale (it runs only with --fast, or by name)",)
        unexpected = f"passes, although it is expected to fail: {', '.join(used)}"
        judged = check.subject is not None and outcome is not Outcome.UNSUPPORTED and (verdict.where or verdict.worst)
        return Result(
            check.id,
            check.backend,
            check.op,
            check.kernel,
            check.dtype,
            check.case,
            check.aspect,
            outcome,
            unexpected if outcome is Outcome.XPASS else verdict.message,
            how=self._how(check.subject, check.dtype, watch),
            worst=verdict.worst if judged and math.isfinite(verdict.worst) else None,
            bound=verdict.bound if judged else None,
            where=verdict.where,
            seconds=seconds,
            declared=used,
            decision=check.decision,
            snippet=snippet(check.id, check.aspect if check.subject else "call", self.plan) if outcome in BAD else "",
        )

    def _how(self, subject: Subject | None, dtype: str, watch: Watch | None) -> str:
        if subject is None:
            return ""
        if watch is not None and watch.found != "kernel":
            return watch.found
        trial = Trial(self.registry, subject.backend, subject.spec, self.plan)
        dtype = dtype or (trial.dtypes or ["float32"])[0]
        if (subject.id, dtype) not in self._origins:
            try:
                self._origins[subject.id, dtype] = origin(trial, subject, dtype)
            # a kernel that fails on its own case is told by the check of that case
            except (Exception, SystemExit):  # noqa: BLE001
                self._origins[subject.id, dtype] = "kernel"
        return self._origins[subject.id, dtype]


def run(
    registry: Registry, plan: Plan, checks: Iterable[Check], on_start: Callable[[str], None] = lambda check_id: None
) -> Iterator[Result]:
    """The results, one after the other; `on_start` is told the id of each check before it runs."""
    runner = Runner(registry, plan)
    for check in checks:
        on_start(check.id)
        yield runner(check)


def _outcome(check: Check, admitted: Admitted) -> tuple[Outcome, Verdict]:
    try:
        verdict = check.run(admitted)
    except DeclaredError as declared:
        return Outcome.UNSUPPORTED, Verdict(str(declared))
    except (UnsupportedError, NotImplementedError) as error:
        return Outcome.UNDECLARED, Verdict(f"says only when it runs that it does not support this: {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001  a backend's code may raise anything, and that is a result
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"in {frame.name}, {frame.filename.rpartition('/')[2]}:{frame.lineno}"
        return Outcome.FAIL, Verdict(f"{type(error).__name__}: {error} ({place})")
    return (Outcome.FAIL if verdict.message else Outcome.PASS), verdict


def admitted_factor(declarations: Iterable[Declaration], dtype: str) -> float:
    """By how much the bounds of a check are widened."""
    return max((_factor(d, dtype) for d in declarations), default=1.0)


def _factor(declaration: Declaration, dtype: str) -> float:
    """By how much a declaration widens the bounds."""
    if isinstance(declaration, RoundedSteps):
        return step_factor(dtype)
    return declaration.factor if isinstance(declaration, Widened) else 1.0


def _used(declaration: Declaration, dtype: str, outcome: Outcome, verdict: Verdict) -> bool:
    """Whether the outcome would have been another without it."""
    if isinstance(declaration, ExpectedFailure):
        return outcome in (Outcome.XFAIL, Outcome.XPASS)
    if isinstance(declaration, (Widened, RoundedSteps)):
        narrow = verdict.bound / _factor(declaration, dtype)
        return verdict.bound > 0 and (verdict.worst > narrow or verdict.mean > narrow * MEAN_SHARE)
    return bool(verdict.where)


def snippet(check_id: str, aspect: str, plan: Plan) -> str:
    """What to paste to see a failure again; a check of a case's outputs also as Python, with its data."""
    if is_case_file(plan.case):
        return f"tinyllm check {plan.backend} --case {plan.case!r}"
    words = ["tinyllm check", plan.backend, "--case", repr(check_id)]
    words += [part for name in plan.oracles for part in ("--oracle", name)]
    words += ["--shapes", plan.shapes] if plan.shapes else []
    words += ["--solution", plan.solution] if plan.solution else []
    words += ["--definitions", plan.definitions] if plan.definitions else []
    words += ["--seed", str(plan.seed)] if plan.seed else []
    if aspect or plan.solution:  # reproduce runs code in this process
        return " ".join(words)
    more = (f", seed={plan.seed}" if plan.seed else "") + (f", shapes={plan.shapes!r}" if plan.shapes else "")
    return (
        " ".join(words) + "\nfrom tinyllm.conformance.reproduce import reproduce\n"
        f"inputs, attributes, given, expected = reproduce({check_id!r}{more})"
    )
