"""Elements that no output depends on (keys that nobody may see, slots past a sequence's length) may hold anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.checks.values import run_and_judge
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject
from tinyllm.spec import Case

POISONS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "large": 1e30}


def unread(trial: Trial) -> Iterator[Check]:
    """Each poison in every case that hides something, on every kernel that takes it."""
    if trial.spec.unread is None or "float32" not in trial.dtypes:
        return
    for case in trial.cases:
        example = trial.example(case, "float32")
        if not example.unread:
            continue
        for subject in trial.subjects:
            if not subject.declines(example.call):
                yield _check(trial, subject, case)


def _check(trial: Trial, subject: Subject, case: Case) -> Check:
    def run(admitted: Admitted) -> Verdict:
        example, worst = trial.example(case, "float32"), Verdict()
        clean = example.with_inputs(**{n: np.where(w, np.float32(0), example.inputs[n]) for n, w in example.unread.items()})
        for name, poison in POISONS.items():
            spoilt = {n: np.where(w, np.float32(poison), example.inputs[n]) for n, w in example.unread.items()}
            poisoned = example.with_inputs(**spoilt)
            poisoned.expected, poisoned.scales, poisoned.inner_scales = clean.expected, clean.scales, clean.inner_scales
            verdict = run_and_judge(subject, poisoned, admitted)
            if verdict.message:
                return replace(verdict, message=f"{name} where nobody may look: {verdict.message}")
            worst = max(worst, verdict, key=lambda v: v.worst)
        return worst

    return trial.check(case.id, run, aspect="unread", subject=subject, dtype="float32", decision=case.decision)
