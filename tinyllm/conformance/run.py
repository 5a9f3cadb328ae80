"""Runs a check, and turns what comes of it into one of the six outcomes."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterable, Iterator

from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Plan, Trial
from tinyllm.conformance.checks.origin import origin
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.result import BAD, Outcome, Result
from tinyllm.conformance.subject import Subject
from tinyllm.declarations import Declaration, ExpectedFailure, Unrepeatable, Widened
from tinyllm.errors import UnsupportedError
from tinyllm.registry import Registry


class Runner:
    """Runs the checks of a plan; finds out once for each kernel who does its work."""

    def __init__(self, registry: Registry, plan: Plan) -> None:
        self.registry, self.plan = registry, plan
        self._origins: dict[str, str] = {}

    def __call__(self, check: Check) -> Result:
        """The result; whatever a kernel raises is one."""
        declared = [d for d in self.registry.plugins.declarations
                    if d.covers(check.backend, check.op, check.kernel, check.dtype, check.case)]  # fmt: skip
        start = time.perf_counter()
        outcome, verdict = _outcome(check, _admitted(declared))
        seconds = time.perf_counter() - start
        outcome = _expected(outcome, declared)
        used = tuple(d.reason for d in declared if not isinstance(d, ExpectedFailure) or outcome in (Outcome.XFAIL, Outcome.XPASS))
        message = verdict.message
        if outcome is Outcome.XPASS:
            message = f"passes, although it is expected to fail: {', '.join(used)}"
        judged = check.subject is not None and outcome is not Outcome.UNSUPPORTED and (verdict.where or verdict.worst)
        return Result(
            check.id, check.backend, check.op, check.kernel, check.dtype, check.case, check.aspect, outcome, message,
            how=self._how(check.subject), worst=verdict.worst if judged and math.isfinite(verdict.worst) else None,
            bound=verdict.bound if judged else None, where=verdict.where, seconds=seconds, declared=used, decision=check.decision,
            snippet=snippet(check, self.plan) if outcome in BAD else "",
        )  # fmt: skip

    def _how(self, subject: Subject | None) -> str:
        if subject is None:
            return ""
        if subject.id not in self._origins:
            trial = Trial(self.registry, subject.backend, subject.spec, self.plan)
            try:
                self._origins[subject.id] = origin(trial, subject)
            except Exception:  # noqa: BLE001  a kernel that fails on its own case is told by the check of that case
                self._origins[subject.id] = "kernel"
        return self._origins[subject.id]


def run(registry: Registry, plan: Plan, checks: Iterable[Check]) -> Iterator[Result]:
    """The results, one after the other."""
    runner = Runner(registry, plan)
    for check in checks:
        yield runner(check)


def _outcome(check: Check, admitted: Admitted) -> tuple[Outcome, Verdict]:
    try:
        verdict = check.run(admitted)
    except DeclaredError as declared:
        return Outcome.UNSUPPORTED, Verdict(str(declared))
    except (UnsupportedError, NotImplementedError) as error:
        return Outcome.UNDECLARED, Verdict(f"says only when it runs that it does not support this: {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001  a backend's code may raise anything, and that is a result
        return Outcome.FAIL, Verdict(_described(error))
    return (Outcome.FAIL if verdict.message else Outcome.PASS), verdict


def _described(error: BaseException) -> str:
    """The error, and the innermost line of it outside of the kit."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = frames[-1] if frames else None
    place = f" (in {frame.name}, {frame.filename.rpartition('/')[2]}:{frame.lineno})" if frame else ""
    return f"{type(error).__name__}: {error}{place}"


def _admitted(declared: list[Declaration]) -> Admitted:
    factors = [d.factor for d in declared if isinstance(d, Widened)]
    return Admitted(max(factors, default=1.0), any(isinstance(d, Unrepeatable) for d in declared))


def _expected(outcome: Outcome, declared: list[Declaration]) -> Outcome:
    if not any(isinstance(d, ExpectedFailure) for d in declared):
        return outcome
    if outcome is Outcome.PASS:
        return Outcome.XPASS
    return Outcome.XFAIL if outcome in BAD else outcome


def snippet(check: Check, plan: Plan) -> str:
    """What to paste to see a failure again."""
    seed = f" --seed {plan.seed}" if plan.seed else ""
    seeded = f", seed={plan.seed}" if plan.seed else ""
    return (
        f"tinyllm check {plan.backend} --case {check.id!r}{seed}\n"
        f"from tinyllm.conformance.reproduce import reproduce\n"
        f"inputs, attributes, given, expected = reproduce({check.id!r}{seeded})"
    )
