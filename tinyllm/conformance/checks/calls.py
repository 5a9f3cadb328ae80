"""Calls as users make them, through `ops`: numpy in gives numpy out, native in gives native out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Trial
from tinyllm.conformance.checks.values import is_native
from tinyllm.conformance.example import arrays_in, copied
from tinyllm.conformance.judge import Verdict, judge
from tinyllm.conformance.subject import Subject
from tinyllm.errors import UnsupportedError
from tinyllm.ops import Op
from tinyllm.spec.cases import Case


def calls(trial: Trial) -> Iterator[Check]:
    """In the first dtype, every small case with numpy and with native arrays."""
    if not trial.dtypes or not trial.subjects or trial.plan.kernels:
        return
    for case in trial.small_cases:
        yield _check(trial, case, "numpy")
        yield _check(trial, case, "native")


def _check(trial: Trial, case: Case, arrays: str) -> Check:
    dtype, spec, backend = trial.dtypes[0], trial.spec, trial.backend

    def run(admitted: Admitted) -> Verdict:
        example = trial.example(case, dtype)
        try:
            choice = trial.registry.choose(replace(example.call, device=backend.device), backend)
        except UnsupportedError as error:
            raise DeclaredError(str(error)) from error
        subject = Subject(trial.registry, backend, spec, choice.kernel)
        copies = {n: copied(v) for n, v in example.inputs.items()}  # what an op consumes is another afterwards
        inputs = subject.native(example.inputs) if arrays == "native" else copies
        device = f"{backend.name}:{backend.device}"
        with np.errstate(all="ignore"):
            result = Op(spec, trial.registry)(*example.positional(inputs), **example.keyword(inputs), backend=device)
        outputs = subject.as_tuple(example, result)
        if arrays == "numpy":
            strange = [type(a).__name__ for a in arrays_in(outputs) if not isinstance(a, np.ndarray)]
            if strange:
                return Verdict(f"numpy arrays went in, {', '.join(strange)} came out")
            return judge(example, outputs, exact=subject.exact, factor=admitted.factor)
        any_native = any(name not in subject.host for name in inputs)  # where all are host data, the answer is numpy
        if any_native and not all(is_native(subject, o) for o in outputs):
            return Verdict(f"native arrays went in, {type(outputs[0]).__name__} came out")
        return judge(example, subject.outputs(outputs), exact=subject.exact, factor=admitted.factor)

    return trial.check(case.id, run, aspect=f"{arrays} call", dtype=dtype, decision=case.decision)
