"""What this machine can do at most, measured on the spot: reading memory, and multiplying float32 matrices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, lcm
from timeit import Timer
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError
from tinyllm.plugins.backend import Backend
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantWeight, Scheme

COLUMNS = 4096
LEAST_ROWS = 16384
SIDE = 1024
COPIED, MOST_COPIES = 2**26, 16
"""Bytes of weights that a few rows are multiplied with, and how many there are at most."""
WORST = 0.05
"""Relative error of a product past which it is no product, whatever it rounds."""

Product = Callable[[Any, Any], Callable[[], Any]]


@dataclass(frozen=True)
class Limits:
    """GB/s read from memory past the caches, and float32 GFLOP/s: the roof that ops are held against."""

    gb_s: float
    gflop_s: float

    def roof(self, intensity: float) -> float:
        """GFLOP/s that can be had at most by a call that does `intensity` operations per byte it moves."""
        return min(self.gflop_s, intensity * self.gb_s)

    def share(self, moved: int, computed: int, seconds: float) -> float | None:
        """The share of the roof that a call reaches; of the bandwidth if it computes nothing, None if it does nothing
        at all."""
        if not moved and not computed:
            return None
        if not computed:
            return moved / seconds / 1e9 / self.gb_s
        roof = self.roof(computed / moved) if moved else self.gflop_s
        return computed / seconds / 1e9 / roof


def highest(limits: Sequence[Limits]) -> Limits:
    """The roof of a device that was measured several times, with several libraries: the best that was reached."""
    return Limits(max(x.gb_s for x in limits), max(x.gflop_s for x in limits))


def timed(run: Callable[[], object], rounds: int, least: float = 0.0) -> list[float]:
    """Seconds per call, `rounds` times after one that is not counted; short calls are repeated until `least` seconds
    pass."""
    run()
    start = time.perf_counter()
    run()
    repeat = max(1, int(least / max(time.perf_counter() - start, 1e-9)))
    return [seconds / repeat for seconds in Timer(run, timer=time.perf_counter).repeat(rounds, repeat)]


class Gauge:
    """Measures a backend's library by its own `linear`: a row against a weight larger than the caches reads memory, a
    square computes.

    Args:
        product: makes a call, synchronised, of the backend's `linear` on an array and a weight, made native and packed.
        cache: bytes of the last-level caches.
        scheme: of the weights; None: float32. Its GB/s are those of the weight as the scheme holds it.
    """

    def __init__(self, backend: Backend, product: Product, cache: int, scheme: Scheme | None = None) -> None:
        rng = np.random.default_rng(0)
        bits, block = (scheme.bits_per_weight, scheme.block) if scheme else (32, 1)
        columns, side = lcm(COLUMNS, block), lcm(SIDE, block)
        copies = ceil(max(LEAST_ROWS, 2 * cache * 8 / (bits * columns)) / SIDE)
        self.bytes = int(copies * SIDE * columns * bits / 8)
        self.flops = 2 * SIDE * SIDE * side
        row, wide = rng.random((1, columns), np.float32), _weight(rng, (SIDE, columns), scheme)
        many, square = rng.random((SIDE, side), np.float32), _weight(rng, (SIDE, side), scheme)
        self._read = _checked(backend, product, row, wide, copies)
        self._compute = _checked(backend, product, many, square)
        self._found: list[Limits] = []

    def measure(self) -> Limits:
        """The best this backend's library reached here, in this and all earlier measurements.

        The quickest rounds count: what was lost to other programs lowers no roof.
        """
        read, compute = min(timed(self._read, 5)), min(timed(self._compute, 7))
        self._found.append(Limits(self.bytes / read / 1e9, self.flops / compute / 1e9))
        return self.best

    @property
    def best(self) -> Limits:
        """The best of the measurements so far."""
        return highest(self._found)

    def sweep(self) -> None:
        """Fill the caches of all cores that the library works on with other data."""
        self._read()


def measure_rows(
    backend: Backend, product: Product, rows: Sequence[int], side: int, scheme: Scheme | None, rounds: int
) -> dict[int, float]:
    """GFLOP/s of products with so many rows, by square weights of a side, one after the other, as a step has them.

    The quickest round counts, as in `Gauge`; numbers of rows take turns, as what disturbs lasts for a while.
    """
    rng = np.random.default_rng(0)
    side = lcm(side, scheme.block if scheme else 1)
    square = _weight(rng, (side, side), scheme)
    copies = max(1, min(MOST_COPIES, COPIED // int(square.nbytes)))
    calls = {
        count: [_checked(backend, product, x, square) for _ in range(copies)]
        for count in rows
        for x in [rng.random((count, side), np.float32)]
    }
    found = [{n: min(timed(lambda n=n: [call() for call in calls[n]], 3)) for n in rows} for _ in range(rounds)]  # type: ignore[misc]
    return {n: 2 * n * copies * side**2 / min(times[n] for times in found) / 1e9 for n in rows}


def _weight(rng: np.random.Generator, shape: tuple[int, int], scheme: Scheme | None) -> Any:
    return scheme.draw(rng, shape) if scheme else rng.random(shape, np.float32)


def _repeated(block: Any, copies: int) -> Any:
    """A weight of so many copies of a block below one another: drawing it all would take longer than reading it."""
    if not isinstance(block, QuantWeight):
        return np.tile(block, (copies, 1))
    return block.rows(lambda array: np.tile(array, (copies, 1)), (copies * block.shape[0],))


def _checked(backend: Backend, product: Product, x: Any, block: Any, copies: int = 1) -> Callable[[], Any]:
    """A product by so many copies of a block that is right: what a wrong one reaches is no roof.

    Raises:
        TinyllmError: it is wrong.
    """
    call = product(x, _repeated(block, copies))
    given, wanted = backend.to_numpy(call()), np.tile(x @ dense(np, block, np.float32).T, (1, copies))
    if (
        given.shape != wanted.shape
        or not np.abs(given.astype(np.float32) - wanted).max() <= WORST * np.abs(wanted).max()
    ):
        sizes = [copies * block.shape[0], block.shape[1]]
        raise TinyllmError(f"its linear is wrong on {list(x.shape)} by {sizes}")
    return call
