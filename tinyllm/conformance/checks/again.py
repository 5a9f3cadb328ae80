"""The same arrays with other numbers, and the first ones once more: nothing may be kept from one call to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Trial
from tinyllm.conformance.checks.values import bytes_of
from tinyllm.conformance.example import Example, make_example
from tinyllm.conformance.judge import Verdict, judge
from tinyllm.conformance.subject import Subject, to_native, to_numpy
from tinyllm.spec.cases import Case
from tinyllm.spec.scheme import QuantWeight


def again(trial: Trial) -> Iterator[Check]:
    """Every small case, on every kernel that takes it as it is."""
    for dtype in trial.safety_dtypes:
        for case in trial.small_cases:
            for subject in trial.subjects:
                if trial.tries(subject, case, dtype, indirectly=False):
                    yield _check(trial, subject, case, dtype)


def _check(trial: Trial, subject: Subject, case: Case, dtype: str) -> Check:
    """Three calls: on the case, on other numbers in the same arrays, and on the case again.

    The outputs of the first must stay as they are: a view of an input changes with it, and a buffer of the kernel's own
    with the next call. Those that may be views, as the spec says, are as they were once the inputs are. The second must
    be right for its own numbers, so that no result and no packed input was kept by where an array lies. The third gives
    the bits of the first.
    """

    def run(admitted: Admitted) -> Verdict:
        def renewed(example: Example) -> Example:
            other = make_example(trial.spec, case, dtype, trial.plan.seed + 1)
            return other.with_inputs(**{n: v for n, v in example.inputs.items() if isinstance(v, QuantWeight)})

        example, other = trial.example(case, dtype), trial.derived(case, dtype, "again", renewed)
        natives = subject.native(example.inputs)
        first = subject.run(example, natives)
        before = [bytes_of(output) for output in subject.outputs(first)]

        def changed(views: bool) -> bool:
            """Whether an output of the first call is another now, views or all else."""
            flags = [output.may_view for output in trial.spec.outputs for _ in output.types(example.call)]
            now = zip(flags, subject.outputs(first), before, strict=False)
            return not trial.spec.consumes and any(bytes_of(y) != b for view, y, b in now if view is views)

        _overwrite(subject, natives, example, other)
        if changed(views=False):
            return Verdict("its output changed when its inputs were written to: it is a view of one")
        second = subject.outputs(subject.run(other, natives))
        verdict = judge(subject.seen(other), second, exact=subject.exact, factor=admitted.factor)
        if verdict.message:
            return Verdict(f"other numbers in the same arrays: {verdict.message}", where=verdict.where)
        shared = changed(views=False)
        _overwrite(subject, natives, other, example)
        if shared or changed(views=True):
            return Verdict("its output changed with the next call: both are in one buffer")
        third = subject.outputs(subject.run(example, natives))
        if [bytes_of(output) for output in third] == before:
            return verdict
        if admitted.varies:
            return judge(subject.seen(example), third, exact=subject.exact, factor=admitted.factor)
        return Verdict("the same numbers in the same arrays give other bits the second time")

    return trial.check(case.id, run, aspect="again", subject=subject, dtype=dtype, decision=case.decision)


def _overwrite(subject: Subject, natives: dict[str, Any], old: Example, new: Example) -> None:
    """Writes the numbers of another example into native arrays, in place. Raises `DeclaredError` where the library's
    arrays do not change."""
    for name, values in new.inputs.items():
        consumed = name in subject.spec.consumes
        if not isinstance(values, np.ndarray) or (not consumed and np.array_equal(values, old.inputs[name])):
            continue
        host = isinstance(natives[name], np.ndarray)
        try:
            natives[name][...] = values if host else to_native(subject.backend, values.copy())
        except (TypeError, NotImplementedError) as error:
            raise DeclaredError(f"arrays of {subject.backend.name} are not written to in place: {error}") from error
        if to_numpy(subject.backend, natives[name]).tobytes() != values.tobytes():
            raise DeclaredError(f"arrays of {subject.backend.name} are not written to in place: nothing changes")
