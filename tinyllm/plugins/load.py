"""Finds plugins and collects what they bring; a broken one is kept aside with its error and harms no other."""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any

import pluggy

from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.errors import PluginError, plugin_code, suggest
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.families.family import Family, GgufForm
from tinyllm.plugins import hookspecs
from tinyllm.plugins.backend import BackendPlugin
from tinyllm.plugins.command import RESERVED, Command
from tinyllm.plugins.declarations import Declaration
from tinyllm.plugins.kernel import ANY_SCHEME, DENSE, EVERY_CPU, Kernel
from tinyllm.plugins.oracle import ONNX, Oracle
from tinyllm.spec.op_spec import SPEC_VERSION, OpSpec
from tinyllm.spec.scheme import Scheme

ARRAYS = ("native", "host")


@dataclass
class Plugins:
    """All that plugins brought. `broken` maps a plugin's name to the error that keeps it out."""

    backends: dict[str, BackendPlugin] = field(default_factory=dict)
    ops: dict[str, OpSpec] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)
    schemes: dict[str, Scheme] = field(default_factory=lambda: dict(SCHEMES))
    declarations: list[Declaration] = field(default_factory=list)
    oracles: dict[str, Oracle] = field(default_factory=dict)
    commands: dict[str, Command] = field(default_factory=dict)
    broken: dict[str, Exception] = field(default_factory=dict)


def load_plugins(
    catalogue: dict[str, OpSpec], found: Iterable[EntryPoint] | None = None, extra: Iterable[Any] = ()
) -> Plugins:
    """Load every entry point of the group, and the modules in `extra`.

    We iterate ourselves: pluggy's own loader stops at the first plugin that fails to import.
    """
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(ops=dict(catalogue))
    modules: list[tuple[str, Any]] = [(getattr(m, "__name__", repr(m)), m) for m in extra]
    for point in _own_first(entry_points(group=hookspecs.GROUP) if found is None else found):
        if point.name in {*dict(modules), *plugins.broken}:
            taken = PluginError(f"plugin name {point.name!r} is that of another plugin already")
            plugins.broken[f"{point.name} ({point.value})"] = taken
            continue
        try:
            with plugin_code("the import", passing=(Exception,)):
                modules.append((point.name, point.load()))
        except Exception as error:  # noqa: BLE001  whatever a plugin's import raises is its own affair, and is reported
            plugins.broken[point.name] = error
    for name, module in modules:
        try:
            with plugin_code("a hook", passing=(Exception,)):
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


def _own_first(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    """tinyllm's own plugins before those of others, whichever are found first, so that no name of ours is taken."""
    try:
        own = {(point.name, point.value) for point in distribution("tinyllm").entry_points}
    except PackageNotFoundError:
        own = set()
    return sorted(dict.fromkeys(points), key=lambda point: (point.name, point.value) not in own)


def _check_hook_names(module: Any) -> None:
    known = [name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("tinyllm_")]
    for name in dir(module):
        marked = isinstance(getattr(getattr(module, name), "tinyllm_impl", None), dict)
        if marked and name not in known:
            raise PluginError(f"unknown hook {name!r}.{suggest(name, known)}")


def check_fields(owner: str, value: Any, **kinds: type) -> None:
    """Nobody type-checks a plugin: a field of another kind raises `PluginError` here, by its name, and not later where
    it is used."""
    for name, kind in kinds.items():
        got = getattr(value, name, None)
        if not isinstance(got, kind):
            raise PluginError(f"{owner}: {name}: expected {kind.__name__}, got {got!r}")


def _results(manager: pluggy.PluginManager, module: Any, hook: str, kind: type, **fields: type) -> list[Any]:
    """What a module's hook gives, each of the class it should be of and with a name."""
    implementations = getattr(manager.hook, hook).get_hookimpls()
    found = [item for impl in implementations if impl.plugin is module for item in impl.function() or ()]
    for item in found:
        if not isinstance(item, kind):
            raise PluginError(f"{hook}: expected {kind.__name__} objects, got {item!r}")
        check_fields(f"{hook}: {kind.__name__} {getattr(item, 'name', None)!r}", item, name=str, **fields)
    return found


def _check_version(what: str, version: int) -> None:
    if version != SPEC_VERSION:
        versions = f"was written for spec version {version}, this is version {SPEC_VERSION}"
        raise PluginError(f"{what} {versions}: docs/plugins.md says what changed")


def _collect(plugins: Plugins, manager: pluggy.PluginManager, module: Any) -> None:
    """Everything of one plugin, or nothing: it is checked as a whole before any of it counts."""
    _check_version("the plugin", getattr(module, "tinyllm_spec_version", SPEC_VERSION))
    backends = _results(manager, module, "tinyllm_backends", BackendPlugin, array_types=tuple, join=str)
    ops = _results(manager, module, "tinyllm_ops", OpSpec)
    kernels = _results(
        manager,
        module,
        "tinyllm_kernels",
        Kernel,
        backend=str,
        op=str,
        priority=int,
        prepares=tuple,
        schemes=tuple,
        host=tuple,
        layout=str,
        arrays=str,
    )
    families = _results(manager, module, "tinyllm_families", Family, model_types=tuple, tensors=tuple, skipped=tuple)
    declarations = _results(
        manager, module, "tinyllm_declarations", Declaration, backend=str, op=str, kernel=str, dtype=str, case=str
    )
    schemes = _results(manager, module, "tinyllm_schemes", Scheme, formula=str, source=str)
    oracles = _results(manager, module, "tinyllm_oracles", Oracle, reason=str, answer=str, package=str, install=str)
    commands = _results(manager, module, "tinyllm_commands", Command, load=str)
    for backend in backends:
        _check_version(f"backend {backend.name!r}", backend.spec_version)
    for kernel in kernels:
        _check_version(f"kernel {kernel.id}", kernel.spec_version)
    for declaration in declarations:
        _check_declaration(declaration, backends, kernels)
    _check_new("backend", [b.name for b in backends], plugins.backends, "provided by another plugin")
    _check_new("op", [o.name for o in ops], plugins.ops, "in the catalogue")
    _check_new("scheme", [s.name for s in schemes], plugins.schemes, "there")
    _check_new("oracle", [o.name for o in oracles], {ONNX, *plugins.oracles}, "provided by another plugin")
    _check_new("command", [c.name for c in commands], {*RESERVED, *plugins.commands}, "there")
    known = {t for family in (*FAMILIES, *plugins.families) for t in family.model_types}
    _check_new("model_type", [t for family in families for t in family.model_types], known, "read by another family")
    read = _architectures((*FAMILIES, *plugins.families))
    _check_new("GGUF architecture", _architectures(families), read, "read by another family")
    plugins.backends.update((b.name, b) for b in backends)
    plugins.ops.update((o.name, o) for o in ops)
    plugins.kernels += kernels
    plugins.families += families
    plugins.schemes.update((s.name, s) for s in schemes)
    plugins.declarations += declarations
    plugins.oracles.update((o.name, o) for o in oracles)
    plugins.commands.update((c.name, c) for c in commands)


def _architectures(families: Iterable[Family]) -> list[str]:
    """Those of the GGUF files of families. Raises `PluginError` for a form of another kind."""
    forms = [(family.name, family.gguf) for family in families if family.gguf is not None]
    for name, form in forms:
        if not isinstance(form, GgufForm):
            raise PluginError(f"tinyllm_families: Family {name!r}: gguf: expected GgufForm, got {form!r}")
        check_fields(f"tinyllm_families: Family {name!r}: gguf", form, architectures=tuple, tensors=tuple)
    return [architecture for _, form in forms for architecture in form.architectures]


def _check_declaration(declaration: Declaration, backends: list[BackendPlugin], kernels: list[Kernel]) -> None:
    """A plugin excuses its own work, and nobody else's."""
    own = [
        k
        for k in kernels
        if k.backend == declaration.backend and fnmatchcase(k.op, declaration.op) and k.name == declaration.kernel
    ]
    if declaration.backend not in [b.name for b in backends] and not own:
        raise PluginError(f"{declaration.name}: neither the backend nor a kernel of this name is this plugin's")


def _check_new(kind: str, names: list[str], taken: Container[str], how: str) -> None:
    for number, name in enumerate(names):
        if name in taken:
            raise PluginError(f"{kind} {name!r} is already {how}")
        if name in names[:number]:
            raise PluginError(f"{kind} {name!r} is brought twice")


def _check_kernels(plugins: Plugins) -> None:
    """Kernels may name ops and backends of other plugins, so they are checked when all are in."""
    seen: set[str] = set()
    kept = []
    for kernel in plugins.kernels:
        wrong = "registered twice" if kernel.id in seen else _wrong_names(kernel, plugins)
        if wrong:
            plugins.broken[kernel.id] = PluginError(f"kernel {kernel.id}: {wrong}")
        else:
            kept.append(kernel)
        seen.add(kernel.id)
    plugins.kernels = kept


def _wrong_names(kernel: Kernel, plugins: Plugins) -> str:
    """The first name in a kernel that nobody knows, or nothing."""
    if kernel.op not in plugins.ops:
        return f"unknown op {kernel.op!r}.{suggest(kernel.op, plugins.ops)}"
    if kernel.backend not in {EVERY_CPU, *plugins.backends, *plugins.broken}:  # a broken plugin is told already
        return f"unknown backend {kernel.backend!r}.{suggest(kernel.backend, plugins.backends)}"
    if kernel.arrays not in ARRAYS or (kernel.backend == EVERY_CPU and kernel.arrays != "host"):
        return f"arrays: expected 'host' for backend '*', otherwise 'native' or 'host', got {kernel.arrays!r}"
    inputs = [i.name for i in plugins.ops[kernel.op].inputs]
    named = {"host": kernel.host, "prepares": kernel.prepares if kernel.prepare is not None else ()}
    for argument, names in named.items():
        for name in names:
            if name not in inputs:
                return f"{argument}: {kernel.op} has no input {name!r}.{suggest(str(name), inputs)}"
    for name in kernel.schemes:
        if name not in {DENSE, ANY_SCHEME, *plugins.schemes}:
            return f"schemes: unknown scheme {name!r}.{suggest(str(name), plugins.schemes)}"
    return ""
