"""Where mutants are kept: a backend with one kernel, and the kit let loose on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.result import BAD, Result
from tinyllm.conformance.run import run
from tinyllm.plugins.backend import Backend, BackendPlugin, Probe
from tinyllm.plugins.hookspecs import GROUP, hookimpl
from tinyllm.plugins.kernel import Kernel
from tinyllm.plugins.load import load_plugins
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import default_settings

NAME = "zoo"


class ZooBackend(Backend):
    """numpy, every array a copy: a mutant may write to what it likes."""

    name = NAME
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    xp: Any = np

    def from_numpy(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def to_numpy(self, array: Any) -> np.ndarray:
        view: np.ndarray = np.asarray(array).view()
        view.flags.writeable = False
        return view

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)


def zoo_registry(mutant: Mutant, right: bool = False) -> Registry:
    """Backend `zoo` with the mutant as its kernel, beside numpy; all other ops run by reference. right: without the
    mistake."""
    kernels = [Kernel(NAME, mutant.op, "right", lambda: mutant.function, priority=1)]
    if not right:
        settings: dict[str, Any] = {"load": lambda: mutant.wrong, **mutant.kernel}
        kernels = [Kernel(NAME, mutant.op, "mutant", **settings), *(kernels if mutant.beside else ())]
    plugin = ModuleType(NAME)
    backend = BackendPlugin(NAME, lambda: Probe(True, "numpy"), lambda device: ZooBackend())
    plugin.tinyllm_backends = hookimpl(lambda: [backend])  # type: ignore[attr-defined]
    plugin.tinyllm_kernels = hookimpl(lambda: kernels)  # type: ignore[attr-defined]
    specs = dict(CATALOGUE)
    if mutant.spec and not right:
        specs[mutant.op] = replace(specs[mutant.op], **mutant.spec)
    numpy = [point for point in entry_points(group=GROUP) if point.name == "numpy"]
    return Registry(load_plugins(specs, found=numpy, extra=(plugin,)), default_settings())


def results(mutant: Mutant, right: bool = False, tier: str = "") -> Iterator[Result]:
    """What the kit says of the mutant's op, check by check, in the mutant's tier or another."""
    registry = zoo_registry(mutant, right)
    plan = Plan(NAME, tiers=(tier or mutant.tier,), ops=(mutant.op,))
    return run(registry, plan, collect(registry, plan))


def caught(mutant: Mutant, tier: str = "") -> list[Result]:
    """The first result that gives a mutant away: a failure, or work that somebody else did. Empty: it gets through."""
    return next(([r] for r in results(mutant, tier=tier) if r.outcome in BAD or r.how not in ("", "kernel")), [])
