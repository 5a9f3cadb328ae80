"""Times a kernel that may not be trusted: what it gives at each timed call is judged, on numbers that it never saw.

A timed call gets new arrays with new numbers, after the caches were swept. The memory that outputs are likely to lie in
holds NaN before. The outputs are copied as soon as the clock has stopped; judged; and looked at again at the end, so
that nothing is written late. Code that runs in this process can still lie about time itself: this holds off kernels
that cheat, not programs that attack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.conformance.example import Example, arrays_in
from tinyllm.conformance.judge import judge
from tinyllm.conformance.subject import to_numpy
from tinyllm.plugins.backend import Backend
from tinyllm.spec.validation import output_types

PAST_ROOF = 1.5
"""How many times the bandwidth that was measured here a call may seem to have before it is suspect."""

Prepared = tuple[Mapping[str, Any], Callable[[], Any]]
"""Native inputs, and a synchronised call on them."""


@dataclass(frozen=True)
class Guarded:
    """Seconds of each call on cold and on warm data, and what was wrong with an output; empty where nothing was."""

    cold: list[float]
    hot: list[float]
    message: str


def guarded_times(
    backend: Backend,
    example: Callable[[int], Example],
    prepare: Callable[[Example], Prepared],
    sweep: Callable[[], None],
    rounds: int,
    exact: bool,
) -> Guarded:
    """Two calls a round: after a sweep of the caches, and on inputs that were just written.

    Args:
        example: the case with the numbers of a seed. prepare: makes native inputs of it, and the call.
    """
    cold: list[float] = []
    hot: list[float] = []
    given: list[tuple[str, Any, list[bytes]]] = []
    _, warm = prepare(example(1))
    for number in range(2 * rounds):
        times, what = (hot, "warm") if number % 2 else (cold, "cold")
        now = example(number + 2)
        inputs, call = prepare(now)
        _poison(backend, now)
        if times is cold:
            sweep()
        warm()  # brings code back into the caches, and no data of the call
        start = time.perf_counter()
        outputs = call()
        times.append(time.perf_counter() - start)
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        name = f"{what} call {number // 2 + 1}"
        message = _wrong_kind(backend, parts)
        if not message:
            at_once = tuple(np.array(to_numpy(backend, part)) for part in parts)
            message = judge(now, at_once, exact=exact).message or _views(backend, now, inputs, parts)
            given.append((name, parts, [array.tobytes() for array in at_once]))
        if message:
            return Guarded(cold, hot, f"{name}: {message}")
    for name, parts, before in given:
        if [np.array(to_numpy(backend, part)).tobytes() for part in parts] != before:
            return Guarded(cold, hot, f"{name}: its output changed after the call had returned")
    return Guarded(cold, hot, "")


def _wrong_kind(backend: Backend, parts: tuple[Any, ...]) -> str:
    """An array of another class may compute when it is looked at, past the clock."""
    kind = type(backend.from_numpy(np.zeros(1, np.float32)))
    strange = [type(part) for part in parts if type(part) is not kind]
    return f"gives {strange[0].__module__}.{strange[0].__name__}, not {kind.__name__}" if strange else ""


def _views(backend: Backend, example: Example, inputs: Mapping[str, Any], parts: tuple[Any, ...]) -> str:
    """Whether an output lies in the memory of an input without being allowed to."""
    if example.spec.consumes:
        return ""
    allowed = [output.may_view for output in example.spec.outputs for _ in output.types(example.call)]
    held = {n: to_numpy(backend, a) for n, v in inputs.items() for a in arrays_in(v) if hasattr(a, "shape")}
    for part, may_view in zip(parts, allowed, strict=False):
        for name, array in held.items():
            if not may_view and np.may_share_memory(to_numpy(backend, part), array):
                return f"its output lies in the memory of its input {name}"
    return ""


def _poison(backend: Backend, example: Example) -> None:
    """Fill memory of the size of the outputs with NaN and let it go, so that the next array of the size is likely to
    hold it. Libraries whose arrays are not written to in place hand out none."""
    for kind in output_types(example.spec, example.call):
        if kind.dtype.startswith(("float", "bfloat")) and all(isinstance(n, int) for n in kind.shape):
            array = backend.zeros(tuple(int(n) for n in kind.shape), kind.dtype)
            try:
                array[...] = np.nan
            except (TypeError, ValueError, NotImplementedError):
                return


def too_fast(read: int, seconds: float, gb_s: float) -> str:
    """What makes a time on cold data suspect, or nothing; read: bytes that must come from memory."""
    reached = read / seconds / 1e9
    if reached <= PAST_ROOF * gb_s:
        return ""
    return f"{read} bytes in {1e6 * seconds:.1f} us are {reached:.0f} GB/s, and this machine reads {gb_s:.0f} at most"
