"""Outside judges, asked for by name: ONNX's own cases on our ops, and our cases judged by the libraries that plugins
bring."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial

from tinyllm.conformance.bounds import step_factor
from tinyllm.conformance.checks.check import Check, Trial
from tinyllm.conformance.checks.values import run_and_judge
from tinyllm.conformance.example import Example, dtypes_of
from tinyllm.conformance.subject import Subject
from tinyllm.errors import TinyllmError
from tinyllm.plugins.kernel import resolve
from tinyllm.plugins.oracle import ONNX, Oracle

NOT_MAPPED = "not mapped: "
"""Begins the message of a case that a judge and our ops have no common words for, which is nobody's shortcoming."""

BOTH_ROUND = 2.0
"""ONNX's outputs are computed in the case's dtype, step by step: each of the two may be off by the tolerance."""


def oracles(trial: Trial) -> Iterator[Check]:
    """The cases of the oracles asked for, on every kernel that takes them.

    Raises:
        TinyllmError: the package of an oracle is not installed; names what to install.
    """
    for name in trial.plan.oracles:
        yield from _onnx(trial) if name == ONNX else _judged_by(trial, trial.registry.plugins.oracles[name])


def _onnx(trial: Trial) -> Iterator[Check]:
    from tinyllm.conformance.oracles.onnx import judged

    for entry, calls in judged():
        if not calls and entry.ops == (trial.spec.name,) and not trial.plan.kernels:
            yield trial.unsupported(entry.case, f"{NOT_MAPPED}{entry.node}: {entry.how}", aspect="onnx")
        for call in calls:
            if call.op == trial.spec.name:
                example = call.example(trial.spec, entry.case)
                if example.dtype in trial.plan.dtypes or not trial.plan.dtypes:
                    factor = BOTH_ROUND * step_factor(example.dtype)
                    yield from _judged(trial, example, "onnx", partial(call.example, trial.spec, entry.case), factor)


def _judged_by(trial: Trial, oracle: Oracle) -> Iterator[Check]:
    if importlib.util.find_spec(oracle.package) is None:
        raise TinyllmError(f"--oracle {oracle.name} needs the package {oracle.package}: {oracle.install}")
    answer, why_not = (resolve(path, f"oracle {oracle.name}") for path in (oracle.answer, oracle.reason))

    @lru_cache(maxsize=1)  # kernels of one case come one after the other
    def answered(number: int, dtype: str) -> Example:
        judged = trial.example(trial.cases[number], dtype).with_inputs()
        judged.expected = answer(judged)
        return judged

    for number, case in enumerate(trial.cases):
        for dtype in trial.dtypes:
            example = trial.example(case, dtype)
            reason = why_not(example)
            if not reason:
                yield from _judged(trial, example, oracle.name, partial(answered, number, dtype), 1.0)
            elif dtype == trial.dtypes[0] and not trial.plan.kernels:
                yield trial.unsupported(case.id, NOT_MAPPED + reason, aspect=oracle.name)


def _judged(
    trial: Trial, example: Example, aspect: str, answered: Callable[[], Example], factor: float
) -> Iterator[Check]:
    """On each kernel that takes the call; where there is none, why not. `answered` gives the example with what the
    judge expects."""
    backend, about = trial.backend, {"aspect": aspect, "dtype": example.dtype}
    has = example.dtype in backend.dtypes or len(dtypes_of(trial.spec)) == 1
    declined = (
        {s.id: s.declines(example.call) for s in trial.subjects} if has else {backend.name: f"has no {example.dtype}"}
    )

    def check_of(subject: Subject) -> Check:
        return trial.check(
            example.case,
            lambda admitted: run_and_judge(subject, answered(), replace(admitted, factor=admitted.factor * factor)),
            subject=subject,
            **about,
        )

    taking = [s for s in trial.subjects if declined.get(s.id) == ""]
    yield from map(check_of, taking)
    if not taking and not trial.plan.kernels:
        reasons = "; ".join(f"{who}: {why}" for who, why in declined.items())
        yield trial.unsupported(example.case, reasons or f"backend {backend.name} has no kernel for it", **about)
