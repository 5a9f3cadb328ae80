"""What the kernels share: widening to float32, exp, sums of rows, and the steps of a program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from tinyllm_mlx import mkl

LOWEST = float(np.finfo(np.float32).min)
TINY = float(np.finfo(np.float32).tiny)


def widen(x: mx.array) -> mx.array:
    """The array in float32."""
    return x if x.dtype == mx.float32 else x.astype(mx.float32)


def on_cpu() -> bool:
    """Whether the default device, on which operations run, is the CPU."""
    return bool(mx.default_device().type == mx.DeviceType.cpu)


def for_product(x: mx.array) -> mx.array:
    """A factor of a matrix product. The GPU accumulates 16-bit products in float32; the CPU's are exact only when
    widened, and fast."""
    return widen(x) if on_cpu() else x


_E64, _64TH = (
    mx.array(math.exp(64)),
    mx.array(1 / 64),
)  # arrays: a Python number becomes one at each call, which takes longer


def _exp_by_power(x: mx.array) -> mx.array:
    # On x86 mx.exp takes 12 ns an element, mx.power 4.5. The base e^64 makes the product exact (1/64 is a power of two)
    # and divides the rounding of the base by 64: the result is good to 0.8 ulp.
    return mx.power(_E64, x * _64TH)


exp = mx.exp if mx.metal.is_available() else _exp_by_power
"""e^x of a float32 array."""


BLOCK, BLOCKS = 512, 16


def row_sums(x: mx.array) -> mx.array:
    """Sums `[..., 1]` along the last axis, as a product with ones: on the CPU 4 times faster than `mx.sum`.

    Either adds one after the other and so loses digits in long rows: those are summed block by block, then the sums of
    blocks.
    """
    n = x.shape[-1]
    if n <= 2 * BLOCK:
        return x @ _column(n, 1.0)
    part = BLOCK * BLOCKS
    parts = [x] if n <= part else [x[..., i : i + part] for i in range(0, n, part)]
    sums = [p @ _blocks()[: p.shape[-1], : -(-p.shape[-1] // BLOCK)] for p in parts]
    return row_sums(sums[0] if len(sums) == 1 else mx.concatenate(sums, axis=-1))


def row_means(x: mx.array) -> mx.array:
    """Means `[..., 1]` along the last axis."""
    n = x.shape[-1]
    return x @ _column(n, 1 / max(n, 1)) if n <= 2 * BLOCK else row_sums(x) * (1 / n)


@lru_cache(maxsize=1)
def _blocks() -> mx.array:
    """Column b is 1 in the rows of block b."""
    return mx.array(np.repeat(np.eye(BLOCKS, dtype=np.float32), BLOCK, axis=0))


@lru_cache(maxsize=64)
def _column(n: int, value: float) -> mx.array:
    return mx.array(np.full((n, 1), value, np.float32))


@dataclass
class _Step:
    begun: bool = False


_STEP: ContextVar[_Step | None] = ContextVar("step", default=None)


@contextmanager
def step(device: mx.DeviceType) -> Iterator[None]:
    """A step of a program: work goes to the device, and on the CPU `begin` may run ahead of its end."""
    now = _Step()
    token = _STEP.set(now if device == mx.cpu else None)
    try:
        with mx.stream(device):
            yield
    finally:
        _STEP.reset(token)
        if now.begun:
            mkl.leave_cores(0)


def begin(array: mx.array) -> None:
    """Compute this while Python builds the rest of the step. It is for steps of few rows, which take 3 ms to build and
    30 to compute.

    It takes a core for Python: few rows wait for memory, not for cores, but MKL's threads spin between products.
    """
    now = _STEP.get()
    if now is None:
        return
    if not now.begun:
        now.begun = True
        mkl.leave_cores(1)
    mx.async_eval(array)  # type: ignore[no-untyped-call]
