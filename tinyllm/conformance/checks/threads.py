"""Calls from several threads at once give what they give one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Barrier

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.checks.values import bytes_of
from tinyllm.conformance.example import make_example
from tinyllm.conformance.judge import Verdict, judge
from tinyllm.conformance.subject import Subject
from tinyllm.spec.cases import Case

THREADS, ROUNDS = 4, 3
"""How many call at once, and how often each does."""


def threads(trial: Trial) -> Iterator[Check]:
    """The large cases, which are long in flight, or where there are none the largest small one, on every kernel."""
    for dtype in trial.safety_dtypes:
        for subject in trial.subjects:
            small, large = (
                [c for c in cases if trial.tries(subject, c, dtype, indirectly=False)]
                for cases in (trial.small_cases, trial.large_cases)
            )
            for case in small if trial.plan.case else large or sorted(small, key=lambda case: case.size)[-1:]:
                yield _check(trial, subject, case, dtype)


def _check(trial: Trial, subject: Subject, case: Case, dtype: str) -> Check:
    """Each thread has numbers of its own, so that what two of them keep in one place is seen."""

    def run(admitted: Admitted) -> Verdict:
        unwatched = Subject(trial.registry, trial.backend, trial.spec, subject.kernel)
        seeds = range(trial.plan.seed, trial.plan.seed + THREADS)
        examples = [make_example(trial.spec, case, dtype, seed) for seed in seeds]
        alone = [unwatched(example) for example in examples]
        together = Barrier(THREADS)
        contexts = [copy_context() for _ in seeds]  # numpy keeps there who gives arrays their memory

        def call(thread: int) -> Verdict:
            together.wait()
            for _ in range(ROUNDS):
                outputs = unwatched(examples[thread])
                if bytes_of(outputs) != bytes_of(alone[thread]):
                    verdict = judge(examples[thread], outputs, exact=subject.exact, against=alone[thread])
                    if verdict.message or not admitted.varies:
                        return Verdict(f"{THREADS} threads at once: {verdict.message or 'other bits than alone'}")
            return Verdict()

        with ThreadPoolExecutor(THREADS) as pool:
            verdicts = pool.map(lambda thread: contexts[thread].run(call, thread), range(THREADS))
            return max(verdicts, key=lambda verdict: len(verdict.message))

    return trial.check(case.id, run, aspect="threads", subject=subject, dtype=dtype)
