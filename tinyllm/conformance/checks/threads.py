"""Calls from several threads at once give what they give one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.checks.values import bytes_of
from tinyllm.conformance.judge import Verdict, judge
from tinyllm.conformance.subject import Subject
from tinyllm.spec.cases import Case

THREADS, ROUNDS = 4, 3
"""How many call at once, and how often each calls each case."""

CASES = 4
"""Of those that a kernel takes: the largest, which are the longest in flight, but no more numbers than `LARGEST`."""
LARGEST = 200_000


def threads(trial: Trial) -> Iterator[Check]:
    """Every kernel, in each dtype that safety is tried in."""
    for dtype in trial.safety_dtypes:
        for subject in trial.subjects:
            cases = [c for c in trial.cases if c.size <= LARGEST]
            taken = [c for c in cases if trial.tries(subject, c, dtype, indirectly=False)]
            if taken:
                yield _check(trial, subject, sorted(taken, key=lambda case: case.size)[-CASES:], dtype)


def _check(trial: Trial, subject: Subject, cases: list[Case], dtype: str) -> Check:
    def run(admitted: Admitted) -> Verdict:
        examples = [trial.example(case, dtype) for case in cases]
        unwatched = Subject(trial.registry, trial.backend, trial.spec, subject.kernel)
        alone = [bytes_of(unwatched(example)) for example in examples]
        together = Barrier(THREADS)

        def call(thread: int) -> str:
            together.wait()
            for turn in range(ROUNDS * len(examples)):
                number = (turn + thread) % len(examples)
                outputs = unwatched(examples[number])
                if bytes_of(outputs) == alone[number]:
                    continue
                verdict = judge(examples[number], outputs, exact=subject.exact, factor=admitted.factor)
                if verdict.message or not admitted.varies:
                    return f"{cases[number].id}: {verdict.message or 'other bits than alone'}"
            return ""

        with ThreadPoolExecutor(THREADS) as pool:
            wrong = [message for message in pool.map(call, range(THREADS)) if message]
        return Verdict(f"{THREADS} threads at once: {wrong[0]}") if wrong else Verdict()

    return trial.check("at once", run, aspect="threads", subject=subject, dtype=dtype)
