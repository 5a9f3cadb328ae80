"""A backend whose kernels fail in the ways that a process does not survive, or does not end by."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

from tinyllm.plugins import (
    Backend,
    BackendPlugin,
    Call,
    ExpectedFailure,
    Kernel,
    Probe,
    Unrepeatable,
    Widened,
    hookimpl,
)

tinyllm_spec_version = 4


class Stubborn(Backend):
    name = "stubborn"
    xp = np

    def from_numpy(self, array: np.ndarray) -> Any:
        return array

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)


def softmax(x: Any, *, axis: int = -1) -> Any:
    """Takes the process down, in one case."""
    if x.shape == (3, 7):
        print("not today", file=sys.stderr, flush=True)
        os.abort()
    return (
        np.exp(x - x.max(axis, keepdims=True)) / np.exp(x - x.max(axis, keepdims=True)).sum(axis, keepdims=True)
        if x.size
        else x
    )


def add(x: Any, y: Any) -> Any:
    """Never comes back, in one case."""
    if x.ndim == 1:
        time.sleep(3600)
    return x + y


def silu(x: Any) -> Any:
    """Off by a little, as declared, and says nothing of arrays that are empty, as expected."""
    if not x.size:
        raise ValueError("empty")
    return (x / (1 + np.exp(-x)) * np.float32(1 + 1e-6)).astype(x.dtype)


def swiglu(gate: Any, up: Any) -> Any:
    """Changes its mind."""
    raise NotImplementedError("maybe later")


def gelu(x: Any, *, approximate: str = "none") -> Any:
    """Never runs: it declines everything."""
    return x


def _declines(call: Call) -> bool | str:
    return "not on this machine"


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    return [BackendPlugin("stubborn", lambda: Probe(True, "for tests"), lambda device: Stubborn())]


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    kernels = [Kernel("stubborn", f.__name__, "own", f"stubborn:{f.__name__}") for f in (softmax, add, silu, swiglu)]
    return [*kernels, Kernel("stubborn", "gelu", "own", "stubborn:gelu", _declines)]


@hookimpl
def tinyllm_declarations() -> list[Any]:
    return [
        Widened("stubborn", "silu", "constants of seven digits", factor=20.0),
        ExpectedFailure(
            "stubborn", "silu", "empty arrays", case="*0*", link="https://example.org/1", since="2026-01-31"
        ),
        Unrepeatable("stubborn", "silu", "threads"),
    ]
