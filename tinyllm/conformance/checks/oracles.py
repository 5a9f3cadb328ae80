"""Outside judges, asked for by name: ONNX's own cases on our ops, and our cases judged by the libraries that plugins
bring."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Trial
from tinyllm.conformance.checks.values import run_and_judge
from tinyllm.conformance.example import Example, dtypes_of
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject
from tinyllm.errors import TinyllmError
from tinyllm.plugins.kernel import resolve
from tinyllm.plugins.oracle import ONNX, Oracle
from tinyllm.spec.cases import Case

NOT_MAPPED = "not mapped: "
"""Begins the message of a case that a judge and our ops have no common words for, which is nobody's shortcoming."""

BOTH_ROUND = 2.0
"""ONNX's outputs are rounded to the case's dtype, as ours are: each of the two may be off by the tolerance."""


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
            yield _unsupported(trial, entry.case, "", "onnx", f"{NOT_MAPPED}{entry.node}: {entry.how}")
        for call in calls:
            if call.op == trial.spec.name:
                example = call.example(trial.spec, entry.case)
                if example.dtype in trial.plan.dtypes or not trial.plan.dtypes:
                    yield from _judged(trial, example, "onnx", partial(_same, example), BOTH_ROUND)


def _judged_by(trial: Trial, oracle: Oracle) -> Iterator[Check]:
    if importlib.util.find_spec(oracle.package) is None:
        raise TinyllmError(f"--oracle {oracle.name} needs the package {oracle.package}: {oracle.install}")
    answer, why_not = (resolve(path, f"oracle {oracle.name}") for path in (oracle.answer, oracle.reason))
    last: list[Example] = []  # kernels of one case come one after the other

    def answered(case: Case, dtype: str) -> Example:
        example = trial.example(case, dtype)
        if not last or last[0] is not example:
            judged = example.with_inputs()
            judged.expected = answer(example)
            last[:] = example, judged
        return last[1]

    for case in trial.cases:
        for number, dtype in enumerate(trial.dtypes):
            example = trial.example(case, dtype)
            reason = why_not(example)
            if not reason:
                yield from _judged(trial, example, oracle.name, partial(answered, case, dtype), 1.0)
            elif not number and not trial.plan.kernels:
                yield _unsupported(trial, case.id, "", oracle.name, NOT_MAPPED + reason)


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
        def run(admitted: Admitted) -> Verdict:
            return run_and_judge(subject, answered(), Admitted(admitted.factor * factor, admitted.varies))

        return trial.check(example.case, run, subject=subject, **about)

    taking = [s for s in trial.subjects if declined.get(s.id) == ""]
    yield from map(check_of, taking)
    if not taking and not trial.plan.kernels:
        reasons = "; ".join(f"{who}: {why}" for who, why in declined.items())
        yield _unsupported(
            trial, example.case, example.dtype, aspect, reasons or f"backend {backend.name} has no kernel for it"
        )


def _unsupported(trial: Trial, case: str, dtype: str, aspect: str, reason: str) -> Check:
    def run(admitted: Admitted) -> Verdict:
        raise DeclaredError(reason)

    return trial.check(case, run, aspect=aspect, dtype=dtype)


def _same(example: Example) -> Example:
    return example
