"""Kernels that cannot be loaded, or whose signature is another; and kernels that take no case at all."""

from __future__ import annotations

from collections.abc import Iterator

from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Trial
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import BROKEN_SUPPORTS, Subject, subjects


def signatures(trial: Trial) -> Iterator[Check]:
    """One check a kernel; those that the registry keeps aside are among them."""
    _ = trial.subjects
    who = f"{trial.backend.name}/{trial.spec.name}:"
    for name, error in trial.registry.plugins.broken.items():
        if name.startswith(who):
            yield trial.failing(name.removeprefix(who), str(error), aspect="signature")
    for subject in subjects(trial.registry, trial.backend, trial.spec):
        if subject.kernel is not None and (not trial.plan.kernels or subject.name in trial.plan.kernels):
            yield _check(trial, subject)


def _check(trial: Trial, subject: Subject) -> Check:
    def run(admitted: Admitted) -> Verdict:
        if subject.id in trial.broken:
            return Verdict(str(trial.broken[subject.id]))
        reasons = [subject.declines(trial.call(case, dtype)) for case in trial.cases for dtype in trial.dtypes]
        broken = [r for r in reasons if r.startswith(BROKEN_SUPPORTS)]
        if broken:
            return Verdict(broken[0])
        if reasons and all(reasons):
            raise DeclaredError(f"takes none of the {len(trial.cases)} cases: {max(set(reasons), key=reasons.count)}")
        return Verdict()

    return trial.check("", run, aspect="signature", subject=subject)
