"""Arrays that are views: slices between guard bands, backwards, transposed, broadcast. Kernels see a library's arrays,
not their memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from tinyllm.conformance.checks.check import Admitted, Check, Trial
from tinyllm.conformance.checks.values import run_and_judge
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject
from tinyllm.plugins.backend import Backend
from tinyllm.spec.cases import Case

BAND = 2
"""Entries on each side of a view that belong to somebody else."""

GUARD = 7.0
"""What stands there: finite, so that reading it gives a wrong number and writing it is seen."""


def layouts(trial: Trial) -> Iterator[Check]:
    """Every small case and some large ones, where other code paths run, that have an array with an axis."""
    cases = list({case.id: case for case in (*trial.small_cases, *trial.large_cases)}.values())
    views: list[tuple[str, View]] = [("sliced", _sliced)]
    why_not = _why_not_reversed(trial.backend)
    if not why_not:
        views.append(("reversed", _reversed))
    elif cases and trial.subjects:
        yield trial.unsupported("views", why_not, aspect="reversed")
    for aspect, shown_by, names in (("transposed", _transposed, PERMUTE), ("broadcast", _broadcast, BROADCAST)):
        if function := find_function(trial.backend, *names):
            views.append((aspect, partial(shown_by, function)))
        elif cases and trial.subjects:
            yield trial.unsupported(
                "views",
                f"views are not tried {aspect}: neither xp nor the module of the arrays has {' or '.join(names)}",
                aspect=aspect,
            )
    never = {*trial.spec.consumes, *(i.name for i in trial.spec.inputs if i.kind == "int")}  # read on the host
    for dtype in trial.safety_dtypes:
        for case in cases:
            example = trial.example(case, dtype)
            arrays = {n: v for n, v in example.inputs.items() if isinstance(v, np.ndarray) and n not in never}
            shown = [name for name, array in arrays.items() if array.ndim and array.size]
            flat = any(arrays[name].ndim == 1 for name in shown)
            for subject in trial.subjects if shown else ():
                if trial.tries(subject, case, dtype, indirectly=False):
                    for aspect, view in views:
                        # what is hidden in one entry may be seen in the next; many equal numbers have no mean error
                        if aspect != "broadcast" or not (example.unread or (case in trial.large_cases and flat)):
                            yield _check(trial, subject, case, dtype, aspect, view, shown)


PERMUTE, BROADCAST = ("permute_dims", "permute", "transpose"), ("broadcast_to",)
"""What libraries call them."""


def find_function(backend: Backend, *names: str) -> Callable[..., Any] | None:
    """The first of these in the backend's namespace, or in the module that its arrays are from."""
    try:
        module = sys.modules.get(type(backend.from_numpy(np.zeros(1, np.float32))).__module__)
    except Exception:  # noqa: BLE001  the checks of arrays tell
        return None
    return next((f for space in (backend.xp, module) for n in names if callable(f := getattr(space, n, None))), None)


View = Callable[[Subject, np.ndarray], tuple[Any, np.ndarray, Callable[[], bool]]]
"""A native view, the numbers that it shows, and whether all around it is as it was."""


def _check(trial: Trial, subject: Subject, case: Case, dtype: str, aspect: str, view: View, names: list[str]) -> Check:
    def run(admitted: Admitted) -> Verdict:
        example = trial.example(case, dtype)
        natives, guards, changed = subject.native(example.inputs), {}, {}
        for name in names:
            natives[name], shown, guards[name] = view(subject, example.inputs[name])
            if shown is not example.inputs[name]:
                changed[name] = shown
        if changed:
            example = trial.derived(case, dtype, aspect, lambda one: one.with_inputs(**changed))
        verdict = run_and_judge(subject, example, admitted, natives)
        if verdict.message:
            return verdict
        overrun = [name for name, untouched in guards.items() if not untouched()]
        return Verdict(f"wrote outside of its input {', '.join(overrun)}") if overrun else verdict

    return trial.check(case.id, run, aspect=aspect, subject=subject, dtype=dtype, decision=case.decision)


def _sliced(subject: Subject, array: np.ndarray) -> tuple[Any, np.ndarray, Callable[[], bool]]:
    """Every second entry of the first axis, between guard bands on all axes."""
    shape = (2 * array.shape[0] + 2 * BAND, *(n + 2 * BAND for n in array.shape[1:]))
    inside = (slice(BAND, BAND + 2 * array.shape[0], 2), *(slice(BAND, BAND + n) for n in array.shape[1:]))
    around = np.full(shape, GUARD, array.dtype)
    around[inside] = array
    before = around.tobytes()
    native = subject.backend.from_numpy(around)
    return native[inside], array, lambda: np.ascontiguousarray(subject.backend.to_numpy(native)).tobytes() == before


def _reversed(subject: Subject, array: np.ndarray) -> tuple[Any, np.ndarray, Callable[[], bool]]:
    """Every axis runs backwards in memory."""
    backwards = (slice(None, None, -1),) * array.ndim
    return subject.backend.from_numpy(array[backwards].copy())[backwards], array, lambda: True


def _why_not_reversed(backend: Backend) -> str:
    """Why a library has no arrays that run backwards, or nothing."""
    try:
        _ = backend.from_numpy(np.zeros(2, np.float32))[::-1]
    except (ValueError, TypeError, NotImplementedError) as error:
        return f"views are not tried reversed: {error}"
    return ""


def _transposed(
    permute: Callable[..., Any], subject: Subject, array: np.ndarray
) -> tuple[Any, np.ndarray, Callable[[], bool]]:
    """The axes lie in memory the other way round."""
    axes = tuple(reversed(range(array.ndim)))
    native = subject.backend.from_numpy(np.ascontiguousarray(array.transpose(axes)))
    return permute(native, axes), array, lambda: True


def _broadcast(
    broadcast_to: Callable[..., Any], subject: Subject, array: np.ndarray
) -> tuple[Any, np.ndarray, Callable[[], bool]]:
    """The first entry of the first axis, shown as often as the axis is long."""
    shown = np.ascontiguousarray(np.broadcast_to(array[:1], array.shape))
    native = subject.backend.from_numpy(array[:1].copy())
    return broadcast_to(native, array.shape), shown, lambda: True
