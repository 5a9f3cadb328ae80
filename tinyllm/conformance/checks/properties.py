"""What must hold whatever the numbers are, without a reference."""

from __future__ import annotations

from collections.abc import Iterator

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.properties import properties_of
from tinyllm.conformance.properties.search import Property, require_hypothesis, search
from tinyllm.conformance.subject import Subject


def properties(trial: Trial) -> Iterator[Check]:
    """Each property of the op, on every kernel: in float32, past the smoke tier in bfloat16 too, or in the dtypes asked
    for."""
    if trial.plan.shapes or set(trial.plan.tiers) == {"model"}:
        return
    smoke = set(trial.plan.tiers) == {"smoke"}
    wanted = trial.plan.dtypes or (*trial.dtypes[:1], *(() if smoke else ("bfloat16",)))
    require_hypothesis()
    for subject in trial.subjects:
        for dtype in (d for d in trial.dtypes if d in wanted and takes(trial, subject, d)):
            for found in properties_of(trial.spec):
                if dtype in found.dtypes:
                    yield searched(trial, subject, found, dtype, "property")


def takes(trial: Trial, subject: Subject, dtype: str) -> bool:
    """Whether it takes any of the smoke cases in a dtype: a kernel for one dtype alone is on trial in that one."""
    cases = [case for case in trial.spec.cases if case.tier == "smoke"]
    return not cases or any(not subject.declines(trial.call(case, dtype)) for case in cases)


def searched(trial: Trial, subject: Subject, found: Property, dtype: str, aspect: str) -> Check:
    """A check that looks for inputs on which a property does not hold."""
    plan = trial.plan

    def run(admitted: Admitted) -> Verdict:
        name = f"{found.op}/{found.name}/{dtype}"  # not the kernel's: all are tried on the same inputs
        return search(lambda draws: found.test(subject, draws), dtype, admitted, name, plan.seed, plan.examples)

    return trial.check(found.name, run, aspect=aspect, subject=subject, dtype=dtype)
