"""Cases: outputs within the bounds, of the spec's shape and dtype and the backend's own kind; inputs as they were;
twice the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.example import Example, arrays_in
from tinyllm.conformance.judge import Verdict, judge
from tinyllm.conformance.subject import BROKEN_SUPPORTS, Subject, to_numpy
from tinyllm.spec.cases import Case


def values(trial: Trial) -> Iterator[Check]:
    """Every case in every dtype on every kernel that is tried on it; where none takes it, the reasons."""
    for case in trial.cases:
        for dtype in trial.dtypes:
            for subject in trial.subjects:
                if trial.tries(subject, case, dtype):
                    yield _value(trial, subject, case, dtype)
            call = trial.call(case, dtype)
            if not trial.plan.kernels and all(subject.declines(call) for subject in trial.subjects):
                yield _declined(trial, case, dtype)


def repeats(trial: Trial) -> Iterator[Check]:
    """The same call twice gives the same bits; the largest case stands for all, and `again` tries the small ones."""
    for subject in trial.subjects:
        for dtype in trial.safety_dtypes:
            held = [c for c in trial.cases if not trial.leaves_to_lender(subject, c, dtype, once=True)]
            taken = [c for c in held if not subject.declines(trial.call(c, dtype))]
            for case in taken if trial.plan.case else sorted(taken, key=lambda case: case.size)[-1:]:
                yield _repeat(trial, subject, case, dtype)


def run_and_judge(
    subject: Subject, example: Example, admitted: Admitted, natives: dict[str, Any] | None = None
) -> Verdict:
    """One run: outputs against the reference, and whether anything was written to that was not the kernel's."""
    natives = subject.native(example.inputs) if natives is None else natives
    before = _kept(subject, natives)
    outputs = subject.run(example, natives)
    foreign = [o for o in outputs if not is_native(subject, o)]
    if foreign:
        return Verdict(
            f"gives {type(foreign[0]).__module__}.{type(foreign[0]).__name__}, not an array of {subject.backend.name}"
        )
    devices = [subject.backend.device_of(arrays_in(o)[0]) for o in outputs]
    if elsewhere := [d for d in devices if d != subject.backend.device]:
        return Verdict(f"gives an array on device {elsewhere[0]!r} instead of {subject.backend.device!r}")
    verdict = judge(subject.seen(example), subject.outputs(outputs), exact=subject.exact, factor=admitted.factor)
    if verdict.message:
        return verdict
    changed = [name for name, now in _kept(subject, natives).items() if now != before[name]]
    return Verdict(f"wrote to its input {', '.join(changed)}") if changed else verdict


def is_native(subject: Subject, output: Any) -> bool:
    """Whether an output is the backend's own kind of array."""
    kind = type(subject.backend.from_numpy(np.zeros(1, np.float32)))
    return not isinstance(output, tuple) and all(isinstance(part, kind) for part in arrays_in(output))


def _value(trial: Trial, subject: Subject, case: Case, dtype: str) -> Check:
    return trial.check(
        case.id,
        lambda admitted: run_and_judge(subject, trial.example(case, dtype), admitted),
        subject=subject,
        dtype=dtype,
        decision=case.decision,
    )


def _declined(trial: Trial, case: Case, dtype: str) -> Check:
    """No kernel takes the case: the backend must say so before it touches any data (see `refusals`). A kernel that
    cannot be loaded, or whose `supports` is broken, has declared nothing."""
    reasons = [f"{s.id}: {s.declines(trial.call(case, dtype))}" for s in trial.subjects]
    broken = bool(trial.broken) or any(BROKEN_SUPPORTS in reason for reason in reasons)
    told = "; ".join([*reasons, *(f"{name}: {error}" for name, error in trial.broken.items())])
    if broken:
        return trial.failing(case.id, told, dtype=dtype, decision=case.decision)
    nothing = f"backend {trial.backend.name!r} has no kernel for it and no namespace for references"
    return trial.unsupported(case.id, told or nothing, dtype=dtype, decision=case.decision)


def _repeat(trial: Trial, subject: Subject, case: Case, dtype: str) -> Check:
    def run(admitted: Admitted) -> Verdict:
        example = trial.example(case, dtype)
        first, second = (subject(example) for _ in range(2))
        differing = sum(a != b for a, b in zip(bytes_of(first), bytes_of(second), strict=True))
        if not differing:
            return Verdict()
        if admitted.varies:
            return judge(example, first, exact=subject.exact, against=second)
        return Verdict(f"the same call twice gives other bits in {differing} output(s)")

    return trial.check(case.id, run, aspect="repeat", subject=subject, dtype=dtype)


def bytes_of(value: Any) -> list[bytes]:
    """What lies in the arrays of an output or an input, each in the order of its axes."""
    return [np.ascontiguousarray(array).tobytes() for array in arrays_in(value)]


def _kept(subject: Subject, natives: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """Inputs byte for byte, but for those that the op consumes: these may be anything afterwards."""
    names = [name for name in natives if name not in subject.spec.consumes]
    return {name: bytes_of(to_numpy(subject.backend, natives[name])) for name in names}
