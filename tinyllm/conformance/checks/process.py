"""What belongs to the whole process is the same after a call as before: it is the user's, and other libraries'."""

from __future__ import annotations

import locale
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject
from tinyllm.plugins.backend import Backend
from tinyllm.spec.cases import Case

MOST = 12
"""Cases that a kernel is tried on in a dtype."""


def process(trial: Trial) -> Iterator[Check]:
    """The small cases one after the other, on every kernel that takes any. This comes before the kernel is tried in
    other ways: what it sets once and for all is seen at its first call alone."""
    for subject in trial.subjects:
        for dtype in trial.safety_dtypes:
            cases = [case for case in trial.small_cases if trial.tries(subject, case, dtype)]
            if cases:  # what it does to the process does not change with every shape
                yield _check(trial, subject, cases[:MOST], dtype)


def _check(trial: Trial, subject: Subject, cases: list[Case], dtype: str) -> Check:
    def run(admitted: Admitted) -> Verdict:
        for case in cases:
            example = trial.example(case, dtype)
            bound = subject.bind(example.call)
            ready = bound.ready(subject.native(example.inputs))
            np.random.random()
            random.random()
            before = state(trial.backend)
            try:
                bound(*example.positional(ready), **example.keyword(ready))
            except Exception:  # noqa: BLE001  the checks of values tell
                continue
            after = state(trial.backend)
            changed = [name for name, value in before.items() if after[name] != value]
            if changed:
                return Verdict(f"{case.id}: changes {', '.join(changed)} of the whole process")
        return Verdict()

    return trial.check("state", run, aspect="process", subject=subject, dtype=dtype)


def state(backend: Backend) -> Mapping[str, Any]:
    """What a call could change for everybody, by name; of the backend's library what the backend tells."""
    one, small = np.float32(1), np.float32(2.0**-140)
    name, keys, *place = np.random.get_state(legacy=True)
    return {
        "numpy's random generator": (name, np.asarray(keys).tobytes(), place),
        "Python's random generator": random.getstate(),
        "numpy's handling of floating-point errors": np.geterr(),
        "rounding": (one + np.float32(2.0**-24) == one, one + np.float32(1.5 * 2.0**-24) > one),
        "subnormal numbers": float(small * one) == 2.0**-140,  # compared in float64, where it is none
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "filters of warnings": tuple(warnings.filters),
        **backend.process_state(),
    }
