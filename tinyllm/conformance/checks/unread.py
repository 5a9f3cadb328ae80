"""Elements that no output depends on (keys that nobody may see, slots past a sequence's length) may hold anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.checks.values import run_and_judge
from tinyllm.conformance.example import Example
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject
from tinyllm.spec.cases import Case

POISONS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "large": 1e30}


def unread(trial: Trial) -> Iterator[Check]:
    """Every case that hides something, on every kernel that takes it: in smoke cases each poison in turn, otherwise all
    of them side by side."""
    if trial.spec.unread is None:
        return
    for dtype in trial.safety_dtypes:
        for case in trial.cases:
            example = trial.example(case, dtype)
            if example.unread:
                yield from (
                    _check(trial, subject, case, dtype)
                    for subject in trial.subjects
                    if not trial.leaves_to_lender(subject, case, dtype) and not subject.declines(example.call)
                )


def _filled(example: Example, *values: float) -> dict[str, np.ndarray]:
    """The inputs that have such elements, which are these values now, one after the other."""
    filled = {}
    for name, where in example.unread.items():
        with np.errstate(over="ignore"):
            poisons = np.asarray(values).astype(example.inputs[name].dtype)
        filled[name] = example.inputs[name].copy()
        filled[name][where] = poisons[np.arange(np.count_nonzero(where)) % len(poisons)]
    return filled


def _check(trial: Trial, subject: Subject, case: Case, dtype: str) -> Check:
    def run(admitted: Admitted) -> Verdict:
        example, worst = trial.example(case, dtype), Verdict()
        clean = trial.derived(case, dtype, "unread", lambda one: one.with_inputs(**_filled(one, 0.0)))
        ways = {name: (poison,) for name, poison in POISONS.items()}
        for name, poisons in (ways if case.tier == "smoke" else {"all poisons": (*POISONS.values(),)}).items():
            poisoned = example.with_inputs(**_filled(example, *poisons))
            poisoned.expected, poisoned.sums = clean.expected, clean.sums
            poisoned.scales, poisoned.inner_scales, poisoned.units = clean.scales, clean.inner_scales, clean.units
            verdict = run_and_judge(subject, poisoned, admitted)
            if verdict.message:
                return replace(verdict, message=f"{name} where nobody may look: {verdict.message}")
            worst = max(worst, verdict, key=lambda v: v.worst)
        return worst

    return trial.check(case.id, run, aspect="unread", subject=subject, dtype=dtype, decision=case.decision)
