"""A small machine to bench on: a cache of a quarter of a megabyte, and limits that are known instead of measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tests.cli.conftest import Cli, cli
from tinyllm.bench.limits import Gauge, Limits
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry

__all__ = ["Cli", "cli"]

CACHE = 2**18
LIMITS = Limits(10.0, 100.0)


class FakeGauge(Gauge):
    """Counts its sweeps."""

    def __init__(self, *_: Any) -> None:
        self.sweeps = 0

    def measure(self) -> Limits:
        return LIMITS

    @property
    def best(self) -> Limits:
        return LIMITS

    def sweep(self) -> None:
        self.sweeps += 1


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benches in this test take milliseconds."""
    monkeypatch.setattr("tinyllm.bench.ops.Gauge", FakeGauge)
    monkeypatch.setattr("tinyllm.bench.ops.cache_bytes", lambda device: CACHE)
    monkeypatch.setattr("tinyllm.bench.ops.LEAST", 1e-5)


def with_kernel(op: str, function: Callable[..., Any], **options: Any) -> Registry:
    """All plugins, and one more numpy kernel that is preferred to all others."""
    plugins = registry().plugins
    kernel = Kernel("numpy", op, "ours", load=lambda: function, priority=99, **options)
    return Registry(replace(plugins, kernels=[*plugins.kernels, kernel]), registry().settings)


def silu(x: Any) -> Any:
    """A right one."""
    return x / (1 + np.exp(-x))
