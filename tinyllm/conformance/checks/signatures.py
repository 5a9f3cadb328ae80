"""Kernels that cannot be loaded, or whose signature is another; and kernels that take no case at all."""

from __future__ import annotations

from collections.abc import Iterator

from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Trial
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject, subjects


def signatures(trial: Trial) -> Iterator[Check]:
    """One check a kernel."""
    _ = trial.subjects
    for subject in subjects(trial.registry, trial.backend, trial.spec):
        if subject.kernel is not None and (not trial.plan.kernels or subject.name in trial.plan.kernels):
            yield _check(trial, subject)


def _check(trial: Trial, subject: Subject) -> Check:
    def run(admitted: Admitted) -> Verdict:
        if subject.id in trial.broken:
            return Verdict(str(trial.broken[subject.id]))
        reasons = [subject.declines(trial.example(case, dtype).call) for case in trial.cases for dtype in trial.dtypes]
        if reasons and all(reasons):
            raise DeclaredError(f"takes none of the {len(trial.cases)} cases: {max(set(reasons), key=reasons.count)}")
        return Verdict()

    return trial.check("", run, aspect="signature", subject=subject)
