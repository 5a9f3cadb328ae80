"""Finds plugins and collects what they bring; a broken one is kept aside with its error and harms no other."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from tinyllm import hookspecs
from tinyllm.backend import BackendPlugin, Kernel
from tinyllm.errors import PluginError, suggest
from tinyllm.spec import SPEC_VERSION, OpSpec

if TYPE_CHECKING:
    from tinyllm.models.families import Family


@dataclass
class Plugins:
    """All that plugins brought. `broken` maps a plugin's name to the error that keeps it out."""

    backends: dict[str, BackendPlugin] = field(default_factory=dict)
    ops: dict[str, OpSpec] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)


def load_plugins(catalogue: dict[str, OpSpec], found: Iterable[EntryPoint] | None = None, extra: Iterable[Any] = ()) -> Plugins:
    """Load every entry point of the group, and the modules in `extra`.

    We iterate ourselves: pluggy's own loader stops at the first plugin that fails to import.
    """
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(ops=dict(catalogue))
    modules: list[tuple[str, Any]] = [(getattr(m, "__name__", repr(m)), m) for m in extra]
    for point in entry_points(group=hookspecs.GROUP) if found is None else found:
        try:
            modules.append((point.name, point.load()))
        except Exception as error:  # noqa: BLE001  whatever a plugin's import raises is its own affair, and is reported
            plugins.broken[point.name] = error
    for name, module in modules:
        try:
            _check_hook_names(module)
            manager.register(module, name=name)
            manager.check_pending()
            _collect(plugins, manager, module)
        except Exception as error:  # noqa: BLE001
            plugins.broken[name] = error
            if manager.has_plugin(name):
                manager.unregister(name=name)
    _check_kernels(plugins)
    return plugins


def _check_hook_names(module: Any) -> None:
    known = [name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("tinyllm_")]
    for name in dir(module):
        marked = isinstance(getattr(getattr(module, name), "tinyllm_impl", None), dict)
        if marked and name not in known:
            raise PluginError(f"unknown hook {name!r}.{suggest(name, known)}")


def _results(manager: pluggy.PluginManager, module: Any, hook: str) -> list[Any]:
    implementations = getattr(manager.hook, hook).get_hookimpls()
    return [item for impl in implementations if impl.plugin is module for item in impl.function() or ()]


def _collect(plugins: Plugins, manager: pluggy.PluginManager, module: Any) -> None:
    """Everything of one plugin, or nothing: it is checked as a whole before any of it counts."""
    backends, ops, kernels, families = (
        _results(manager, module, f"tinyllm_{kind}") for kind in ("backends", "ops", "kernels", "families")
    )
    for backend in backends:
        if backend.spec_version != SPEC_VERSION:
            raise PluginError(f"backend {backend.name!r} was written for spec version {backend.spec_version}, this is version {SPEC_VERSION}")
        if backend.name in plugins.backends:
            raise PluginError(f"backend {backend.name!r} is already provided by another plugin")
    for op in ops:
        if op.name in plugins.ops:
            raise PluginError(f"op {op.name!r} is already in the catalogue")
    plugins.backends.update((b.name, b) for b in backends)
    plugins.ops.update((o.name, o) for o in ops)
    plugins.kernels += kernels
    plugins.families += families


def _check_kernels(plugins: Plugins) -> None:
    """Kernels may name ops and backends of other plugins, so they are checked when all are in."""
    seen: set[str] = set()
    kept = []
    for kernel in plugins.kernels:
        if kernel.op not in plugins.ops:
            plugins.broken[kernel.id] = PluginError(f"kernel {kernel.id}: unknown op {kernel.op!r}.{suggest(kernel.op, plugins.ops)}")
        elif kernel.id in seen:
            plugins.broken[kernel.id] = PluginError(f"kernel {kernel.id} is registered twice")
        else:
            kept.append(kernel)
        seen.add(kernel.id)
    plugins.kernels = kept
