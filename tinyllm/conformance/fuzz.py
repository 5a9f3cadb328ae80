"""The fuzz tier: random valid calls of every op, in shapes and settings that nobody thought of, judged against the
reference."""

from __future__ import annotations

from collections.abc import Iterator

from tinyllm.conformance.checks.check import Check, Trial
from tinyllm.conformance.checks.properties import searched, takes
from tinyllm.conformance.checks.values import run_and_judge
from tinyllm.conformance.example import Example
from tinyllm.conformance.properties.random_calls import random_call
from tinyllm.conformance.properties.search import Draws, Property
from tinyllm.conformance.subject import Subject


def fuzz(trial: Trial) -> Iterator[Check]:
    """Where the plan has the fuzz tier: each kernel in each dtype."""
    if "fuzz" not in trial.plan.tiers or trial.plan.shapes:
        return
    for subject in trial.subjects:
        for dtype in (d for d in trial.dtypes if takes(trial, subject, d)):
            yield searched(trial, subject, Property("fuzz", trial.spec.name, tried), dtype, "fuzz")


def tried(subject: Subject, draws: Draws) -> str:
    """What is wrong with the subject's outputs on a random call."""
    inputs, attributes = random_call(draws, subject.spec)
    example = Example(subject.spec, "fuzz", draws.dtype, inputs, attributes)
    draws.must_run(subject, example)
    return run_and_judge(subject, example, draws.admitted).message
