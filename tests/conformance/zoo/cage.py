"""Runs the kit on a mutant: the only kernel of a backend of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import tinyllm_numpy

from tests.conformance.zoo.mutant import Mutant
from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.conformance import collect as kit
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import trials
from tinyllm.conformance.result import BAD, Result
from tinyllm.conformance.run import run
from tinyllm.plugins.backend import Backend, BackendPlugin, Probe
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import DENSE, EVERY_CPU, Kernel
from tinyllm.plugins.load import load_plugins
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import default_settings

NAME = "zoo"
ARRAYS: dict[str, tuple[str, ...]] = {"numpy": (), "torch": ("torch.Tensor",)}
"""What the arrays of a library are called."""


class ZooBackend(Backend):
    """numpy by another name. The kit hands out copies, so that a mutant may write to what it likes."""

    name = NAME
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    xp: Any = np

    def from_numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_numpy(self, array: Any) -> np.ndarray:
        view: np.ndarray = np.asarray(array).view()
        view.flags.writeable = False
        return view

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)


def _backend(library: str) -> Backend:
    """The library's arrays, by the zoo's name."""
    if library == "numpy":
        return ZooBackend()
    from tinyllm_torch.backend import TorchBackend

    backend = TorchBackend("cpu")
    backend.name = NAME
    return backend


def zoo_registry(mutant: Mutant, right: bool = False) -> Registry:
    """Backend `zoo` with the mutant as its kernel, beside numpy; all other ops run by reference. Only schemes that the
    mutant takes are registered, or where it takes none those of the core's own format. right: without the mistake."""
    schemes = (DENSE, *(scheme.name for scheme in mutant.schemes))
    kernels = [Kernel(NAME, mutant.op, "right", lambda: mutant.function, priority=1, schemes=schemes)]
    if not right:
        settings: dict[str, Any] = {"load": lambda: mutant.wrong, "schemes": schemes, **mutant.kernel}
        kernels = [Kernel(NAME, mutant.op, "mutant", **settings), *(kernels if mutant.beside else ())]
    plugin = ModuleType(NAME)
    backend = BackendPlugin(
        NAME, lambda: Probe(True, mutant.library), lambda device: _backend(mutant.library), ARRAYS[mutant.library]
    )
    plugin.tinyllm_backends = hookimpl(lambda: [backend])  # type: ignore[attr-defined]
    plugin.tinyllm_kernels = hookimpl(lambda: kernels)  # type: ignore[attr-defined]
    specs = dict(CATALOGUE)
    if mutant.spec and not right:
        specs[mutant.op] = replace(specs[mutant.op], **mutant.spec)
    plugins = load_plugins(specs, found=(), extra=(tinyllm_numpy, plugin))
    if (
        mutant.library == "numpy"
    ):  # what expands weights by reference elsewhere cannot in torch, without unsigned integers
        plugins.kernels = [kernel for kernel in plugins.kernels if kernel.backend != EVERY_CPU]
    plugins.schemes = {scheme.name: scheme for scheme in mutant.schemes or (Affine(), Int8())}
    return Registry(plugins, default_settings())


def results(mutant: Mutant, right: bool = False, tier: str = "", aspects: tuple[str, ...] = ()) -> Iterator[Result]:
    """What the kit says of the mutant's op, check by check, in the mutant's tier or another, and of all aspects or of
    these. Checks are collected while they run, so that whoever stops early pays for no more."""
    registry = zoo_registry(mutant, right)
    plan = Plan(NAME, tiers=(tier or mutant.tier,), ops=(mutant.op,))
    (trial,) = trials(registry, plan)
    wanted = (aspect for name, aspect in kit.ASPECTS.items() if name in aspects or not aspects)
    return run(registry, plan, chain.from_iterable(aspect(trial) for aspect in wanted))


def first_caught(
    mutants: Sequence[Mutant], right: bool = False, tier: str = "", aspects: tuple[str, ...] = ()
) -> dict[str, Result]:
    """By name what gives each mutant of one op away first, where anything does.

    They are tried side by side, check by check, so that all are held against an example while it is kept: making it
    takes longer than most of them do.
    """
    running = {mutant.name: results(mutant, right, tier, aspects) for mutant in mutants}
    found: dict[str, Result] = {}
    while running:
        for name, seen in [*running.items()]:
            result = next(seen, None)
            if result is not None and _tells(result):
                found[name] = result
            if result is None or name in found:
                del running[name]
    return found


def caught(mutant: Mutant, tier: str = "", aspects: tuple[str, ...] = ()) -> list[Result]:
    """The first result that gives a mutant away: a failure, or work that somebody else did. Empty: it gets through."""
    seen = results(mutant, tier=tier, aspects=aspects)
    return next(([r] for r in seen if _tells(r)), [])


def _tells(result: Result) -> bool:
    return result.outcome in BAD or result.how not in ("", "kernel")
