"""What this machine can do at most, measured on the spot: reading memory, and multiplying float32 matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from tinyllm.backend import Backend


@dataclass(frozen=True)
class Limits:
    """GB/s read from memory past the caches, and float32 GFLOP/s: the roof that ops are held against."""

    gb_s: float
    gflop_s: float


def timed(run: Callable[[], object], rounds: int, least: float = 0.0) -> list[float]:
    """Seconds per call, `rounds` times after one that is not counted; short calls are repeated until `least` seconds pass."""
    run()
    start = time.perf_counter()
    run()
    repeat = max(1, int(least / max(time.perf_counter() - start, 1e-9)))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeat):
            run()
        times.append((time.perf_counter() - start) / repeat)
    return times


def measure_limits(backend: Backend, product: Callable[[Any, Any], Callable[[], Any]]) -> Limits:
    """The best this backend's library reaches here.

    Args:
        product: makes a call of the backend's `linear` on native arrays, the weight packed: one row against a large weight
            reads memory, many rows compute.
    """
    rng = np.random.default_rng(0)
    large = backend.from_numpy(rng.standard_normal((16384, 4096), dtype=np.float32))
    row = backend.from_numpy(rng.standard_normal((1, 4096), dtype=np.float32))
    square = backend.from_numpy(rng.standard_normal((1024, 1024), dtype=np.float32))

    def seconds(x: Any, weight: Any, rounds: int) -> float:
        call = product(x, weight)
        return median(timed(lambda: backend.synchronize(call()), rounds))

    with backend.step_context():
        read, compute = seconds(row, large, 5), seconds(square, square, 7)
    return Limits(16384 * 4096 * 4 / read / 1e9, 2 * 1024**3 / compute / 1e9)
