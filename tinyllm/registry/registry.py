"""From (op, backend, call) to the kernel that runs, and an explanation of the choice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from tinyllm.catalogue import CATALOGUE
from tinyllm.errors import (
    BackendUnavailableError,
    PluginError,
    PluginWarning,
    SignatureError,
    TinyllmError,
    UnknownNameError,
    UnsupportedError,
    suggest,
)
from tinyllm.plugins.backend import Backend, BackendPlugin, Probe
from tinyllm.plugins.kernel import Kernel
from tinyllm.plugins.load import Plugins, check_fields, load_plugins
from tinyllm.registry.by_reference import reference_function
from tinyllm.registry.selection import Selection, parse_pins, parse_selection, selected
from tinyllm.settings.read import Setting, read_settings
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.types import FLOATS, ArrayType, Call


@dataclass(frozen=True)
class Candidate:
    """A kernel that was looked at. `reason` is empty if it can run the call, otherwise why not."""

    kernel: Kernel
    reason: str


@dataclass(frozen=True)
class Choice:
    """What runs an op: a kernel, or (kernel None) the reference on the backend's namespace."""

    op: str
    backend: Backend
    kernel: Kernel | None
    candidates: tuple[Candidate, ...]
    why: str

    @property
    def id(self) -> str:
        """`torch/sdpa:fused`, or `numpy/gelu:reference`."""
        return self.kernel.id if self.kernel else f"{self.backend.name}/{self.op}:reference"


class Registry:
    """Plugins, settings and loaded backends. One is made for the process (`default_registry`); more can live beside
    it."""

    def __init__(self, plugins: Plugins | None = None, settings: Mapping[str, Setting] | None = None) -> None:
        self.plugins = load_plugins(CATALOGUE) if plugins is None else plugins
        self.settings = dict(read_settings() if settings is None else settings)
        self._probes: dict[str, Probe] = {}
        self._backends: dict[str, Backend] = {}
        self._checked: set[Selection] = set()
        self._functions: dict[tuple[str, int], Callable[..., Any]] = {}
        kernels = self.settings["kernels"]
        self.pins = parse_pins(kernels.value, kernels.source)
        self._check_pins(kernels.source)

    @property
    def specs(self) -> Mapping[str, OpSpec]:
        """The catalogue with the ops that plugins added."""
        return self.plugins.ops

    def spec(self, op: str) -> OpSpec:
        """The spec of an op, or an error with the nearest name."""
        if op not in self.specs:
            raise UnknownNameError(f"unknown op {op!r}.{suggest(op, self.specs)}")
        return self.specs[op]

    def probe(self, name: str) -> Probe:
        """What a backend's probe found, looked up once."""
        if name not in self._probes:
            plugin = self._plugin(name)
            try:
                self._probes[name] = _checked_probe(plugin.probe())
            except Exception as error:  # noqa: BLE001  a plugin's probe may raise anything
                self._probes[name] = Probe(False, f"probe failed: {type(error).__name__}: {error}")
        return self._probes[name]

    def _plugin(self, name: str, where: str = "") -> BackendPlugin:
        if name in self.plugins.backends:
            return self.plugins.backends[name]
        if name in self.plugins.broken:
            error = self.plugins.broken[name]
            raise BackendUnavailableError(
                f"{where}backend {name!r}: its plugin is broken: {type(error).__name__}: {error}"
            ) from error
        raise UnknownNameError(f"{where}unknown backend {name!r}.{suggest(name, self.plugins.backends)}")

    def _find(self, name: str, where: str = "") -> tuple[BackendPlugin, str | None]:
        """The plugin and device behind `name` or `name:device`, both there; nothing is loaded. `where` begins the
        errors."""
        name, separator, device = name.partition(":")
        plugin, probe = self._plugin(name, where), self.probe(name)
        if not probe.available:
            hint = f"; install it with: {plugin.install}" if plugin.install else ""
            raise BackendUnavailableError(f"{where}backend {name!r} is not available: {probe.reason}{hint}")
        if separator and device not in probe.devices:
            raise BackendUnavailableError(
                f"{where}backend {name!r} has no device {device!r} here (devices: {', '.join(probe.devices)})"
            )
        return plugin, device or None

    def backend(self, name: str) -> Backend:
        """The loaded backend for `name` or `name:device`.

        Raises:
            UnknownNameError: nobody registered it. BackendUnavailableError: it cannot run here; says what to install.
            PluginError: its plugin gave something that is no such backend.
        """
        if name not in self._backends:
            loaded = _load(*self._find(name))
            self._check_signatures(loaded.name)
            self._backends[name] = self._backends.setdefault(f"{loaded.name}:{loaded.device}", loaded)
        return self._backends[name]

    def _check_signatures(self, backend: str) -> None:
        """Kernels with another signature than their op's are kept aside, aloud; those that cannot be loaded say so when
        they are used."""
        for kernel in [k for k in self.plugins.kernels if k.backend == backend]:
            try:
                kernel.function(self.specs[kernel.op])
            except SignatureError as error:
                self.plugins.broken[kernel.id] = error
                self.plugins.kernels.remove(kernel)
                warnings.warn(f"kernel left out: {error}", PluginWarning, stacklevel=2)
            except PluginError:
                continue

    def select(self, argument: str | None = None) -> Selection:
        """Argument, then `use_backend`, then settings, then the best available. Raises as `check` does."""
        return self.asked(argument) or Selection(self.best(), (), "best available")

    def asked(self, argument: str | None = None) -> Selection | None:
        """What argument, `use_backend` or settings say, checked; None: nobody chose."""
        setting, chosen = self.settings["backend"], selected()
        if argument is not None:
            chosen = parse_selection(argument, "argument")
        elif chosen is None and setting.value is not None:
            chosen = parse_selection(setting.value, setting.source)
        if chosen is not None:
            self.check(chosen)
        return chosen

    def check(self, selection: Selection) -> None:
        """Every op, backend and device of a selection is there, used or not; looked at once.

        Raises:
            UnknownNameError: an op or backend that nobody registered. BackendUnavailableError: a backend or device that
                is not here.
        """
        if selection in self._checked:
            return
        where = f"{selection.source}: "
        for op, name in selection.per_op:
            if op not in self.specs:
                raise UnknownNameError(f"{where}unknown op {op!r}.{suggest(op, self.specs)}")
            self._find(name, where)
        if selection.default is not None:
            self._find(selection.default, where)
        self._checked.add(selection)

    def best(self) -> str:
        """The available backend with the highest score."""
        probes = {name: self.probe(name) for name in self.plugins.backends}
        available = [name for name, probe in probes.items() if probe.available]
        if not available:
            raise BackendUnavailableError("no backend is available; install one with: pip install 'tinyllm[torch]'")
        return max(available, key=lambda name: probes[name].score)

    def backend_for(self, op: str, selection: Selection) -> Backend:
        """The backend a selection gives to an op. Raises as `check` and `backend` do."""
        self.check(selection)
        return self.backend(selection.for_op(op) or self.best())

    def kernels(self, backend: str, op: str) -> list[Kernel]:
        """Kernels of a backend for an op, highest priority first."""
        found = [k for k in self.plugins.kernels if k.backend == backend and k.op == op]
        return sorted(found, key=lambda k: -k.priority)

    def choose(self, call: Call, backend: Backend, kernel: str | None = None, fast: bool | None = None) -> Choice:
        """The kernel for a call: named, pinned, or the highest priority that supports it; the reference if there is no
        kernel at all.

        Raises:
            UnsupportedError: a dtype or call that nothing on this backend runs, with each reason.
            PluginError: two kernels of one priority both support it.
        """
        spec = self.spec(call.op)
        self.check_dtypes(call, backend)
        found = self.kernels(backend.name, call.op)
        fast = self.settings["fast"].value if fast is None else fast
        pin = kernel or self.pins.get((backend.name, call.op))
        candidates = tuple(Candidate(k, _reason(k, call, fast or pin == k.name)) for k in found)
        if pin:
            return self._pinned(pin, call, backend, candidates)
        fitting = [c.kernel for c in candidates if not c.reason]
        if not fitting and not found:
            if backend.xp is None:
                raise UnsupportedError(
                    f"{call.op}: backend {backend.name!r} has no kernel for it and no namespace for references"
                )
            return Choice(call.op, backend, None, candidates, "no kernel of its own: runs by the op's reference")
        if not fitting:
            reasons = "; ".join(f"{c.kernel.id}: {c.reason}" for c in candidates)
            raise UnsupportedError(f"{spec.name}: no kernel of backend {backend.name!r} supports this call ({reasons})")
        if len(fitting) > 1 and fitting[0].priority == fitting[1].priority:
            raise PluginError(
                f"{spec.name}: kernels {fitting[0].id} and {fitting[1].id} have the same priority "
                f"{fitting[0].priority}; pin one"
            )
        return Choice(
            call.op, backend, fitting[0], candidates, f"highest priority ({fitting[0].priority}) that supports the call"
        )

    def _pinned(self, pin: str, call: Call, backend: Backend, candidates: Iterable[Candidate]) -> Choice:
        candidates = tuple(candidates)
        if pin == "reference" and backend.xp is not None:
            return Choice(call.op, backend, None, candidates, "pinned")
        for candidate in candidates:
            if candidate.kernel.name == pin:
                if candidate.reason:
                    raise UnsupportedError(
                        f"{call.op}: pinned kernel {candidate.kernel.id} does not support this call: {candidate.reason}"
                    )
                return Choice(call.op, backend, candidate.kernel, candidates, "pinned")
        names = [c.kernel.name for c in candidates]
        raise UnknownNameError(f"{call.op}: backend {backend.name!r} has no kernel {pin!r}.{suggest(pin, names)}")

    def function(self, choice: Choice) -> Callable[..., Any]:
        """The function behind a choice: loaded and its signature checked once."""
        key = (choice.id, id(choice.backend))
        if key not in self._functions:
            spec = self.spec(choice.op)
            self._functions[key] = (
                choice.kernel.function(spec) if choice.kernel else reference_function(spec, choice.backend)
            )
        return self._functions[key]

    def check_dtypes(self, call: Call, backend: Backend) -> None:
        """Those of the inputs, and of outputs whose dtype the caller chose, are the backend's; otherwise
        `UnsupportedError`."""
        wanted = {n: t.dtype for n, t in call.inputs.items() if isinstance(t, ArrayType)}
        chosen = [o.dtype[1:] for o in self.spec(call.op).outputs if o.dtype.startswith("=")]
        for name, dtype in (wanted | {n: call.attributes[n] for n in chosen}).items():
            if dtype in FLOATS and dtype not in backend.dtypes:
                supported = ", ".join(sorted(backend.dtypes))
                raise UnsupportedError(
                    f"{call.op}: {name}: backend {backend.name}:{backend.device} has no {dtype} (it has {supported})"
                )

    def _check_pins(self, source: str) -> None:
        for backend, op in self.pins:
            self.spec(op)
            if backend not in self.plugins.backends:
                raise UnknownNameError(
                    f"{source}: kernels: unknown backend {backend!r}.{suggest(backend, self.plugins.backends)}"
                )


def _reason(kernel: Kernel, call: Call, inexact_allowed: bool) -> str:
    if not kernel.exact and not inexact_allowed:
        return "rounds activations or scales: needs --fast or its name"
    try:
        answer = kernel.supports(call) if kernel.supports else True
    except Exception as error:  # noqa: BLE001  a plugin's function may raise anything; other kernels go on working
        return f"supports failed: {type(error).__name__}: {error}"
    if not isinstance(answer, (bool, str)):
        return f"supports gave {answer!r}, expected True or a reason"
    return "" if answer is True else answer or "not supported"


def _checked_probe(probe: Any) -> Probe:
    if not isinstance(probe, Probe):
        raise PluginError(f"expected a Probe, got {probe!r}")
    check_fields("Probe", probe, available=bool, reason=str, score=int, devices=tuple)
    return probe


def _load(plugin: BackendPlugin, device: str | None) -> Backend:
    try:
        loaded = plugin.load(device)
    except TinyllmError:
        raise
    except Exception as error:  # a plugin's load may raise anything
        raise BackendUnavailableError(
            f"backend {plugin.name!r} failed to load: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, Backend):
        raise PluginError(f"backend {plugin.name!r}: load: expected a Backend, got {loaded!r}")
    check_fields(f"backend {plugin.name!r}", loaded, name=str, device=str)
    unknown = sorted(set(loaded.dtypes) - {*FLOATS})
    if unknown:
        raise PluginError(
            f"backend {plugin.name!r}: dtypes: expected names among {', '.join(FLOATS)}, got {unknown[0]!r}"
        )
    if loaded.name != plugin.name:
        raise PluginError(f"backend {plugin.name!r}: load gave a backend named {loaded.name!r}")
    return loaded


@cache
def default_registry() -> Registry:
    """The registry of this process: all installed plugins, and the settings as they stood at first use."""
    return Registry()
