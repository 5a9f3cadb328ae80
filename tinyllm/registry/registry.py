"""From (op, backend, call) to the kernel that runs, and an explanation of the choice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from tinyllm.catalogue import CATALOGUE
from tinyllm.errors import (
    BackendUnavailableError,
    ConfigError,
    PluginError,
    PluginWarning,
    SignatureError,
    TinyllmError,
    UnknownNameError,
    UnsupportedError,
    invalid,
    plugin_code,
    suggest,
)
from tinyllm.plugins.backend import Backend, BackendPlugin, Probe, on_host
from tinyllm.plugins.kernel import EVERY_CPU, Kernel, optional_arguments_left_out, resolve
from tinyllm.plugins.load import Plugins, check_fields, load_plugins
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.call import Dispatcher
from tinyllm.registry.choice import Candidate, Choice, Form, best, candidate, forms
from tinyllm.registry.selection import Selection, parse_pins, parse_selection, selected
from tinyllm.registry.without_kernel import BackendOps, reference_function
from tinyllm.settings.read import Setting, read_settings
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.quantized import check_quant_weight
from tinyllm.spec.scheme import QuantWeight, Scheme
from tinyllm.spec.types import FLOATS, ArrayType, Call
from tinyllm.spec.validation import check_call


class Registry:
    """Plugins, settings and loaded backends. One is made for the process (`default_registry`); more can live beside
    it."""

    def __init__(self, plugins: Plugins | None = None, settings: Mapping[str, Setting] | None = None) -> None:
        self.plugins = load_plugins(CATALOGUE) if plugins is None else plugins
        self.settings = dict(read_settings() if settings is None else settings)
        self._probes: dict[str, Probe] = {}
        self._backends: dict[str, Backend] = {}
        self._checked: set[Selection] = set()
        self._functions: dict[tuple[str, str, str], Callable[..., Any]] = {}
        self._missing: dict[str, frozenset[str]] = {}
        self._dispatchers: dict[str, Dispatcher] = {}
        kernels = self.settings["kernels"]
        self.pins = parse_pins(kernels.value, kernels.source)
        for backend, op in self.pins:
            self.spec(op)
            if backend not in self.plugins.backends:
                raise UnknownNameError(
                    f"{kernels.source}: kernels: unknown backend {backend!r}.{suggest(backend, self.plugins.backends)}"
                )

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
        """What a backend's probe found, looked up once. Raises `ConfigError` where a setting of the backend's own is
        wrong."""
        if name not in self._probes:
            plugin = self._plugin(name)
            try:
                with plugin_code("probe", passing=(ConfigError,)):
                    probe = plugin.probe()
                    if not isinstance(probe, Probe):
                        raise PluginError(f"expected a Probe, got {probe!r}")
                    check_fields("Probe", probe, available=bool, reason=str, score=int, devices=tuple)
                self._probes[name] = probe
            except PluginError as error:
                self._probes[name] = Probe(False, str(error))
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
        for kernel in [k for k in self.plugins.kernels if k.backend in (backend, EVERY_CPU)]:
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
        for op, _ in selection.per_op:
            if op not in self.specs:
                raise UnknownNameError(f"{where}unknown op {op!r}.{suggest(op, self.specs)}")
        for _, name in (*selection.per_op, *selection.per_node):
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

    def backend_for(self, op: str, selection: Selection, node: str = "") -> Backend:
        """The backend a selection gives to an op, or to a node of a model. Raises as `check` and `backend` do."""
        self.check(selection)
        return self.backend((selection.for_node(node, op) if node else selection.for_op(op)) or self.best())

    def kernels(self, backend: str, op: str) -> list[Kernel]:
        """Kernels of a backend for an op, highest priority first; those of `"*"` serve every backend on a CPU."""
        registered = [k for k in self.plugins.kernels if k.backend == backend and k.op == op]
        return sorted(registered, key=lambda k: -k.priority)

    def choose(self, call: Call, backend: Backend, kernel: str | None = None, fast: bool | None = None) -> Choice:
        """The kernel for a call: named, pinned, or the highest priority that supports it; where there is none at all,
        the op's composition, or its reference.

        Raises:
            UnsupportedError: a dtype or call that nothing on this backend runs, with each reason.
            PluginError: two kernels of one priority both support it.
        """
        spec = self.spec(call.op)
        self.check_dtypes(call, backend)
        pin = kernel or self.pins.get((backend.name, call.op))
        inexact = self.settings["fast"].value if fast is None else fast
        kernels = self.kernels(backend.name, call.op)
        if backend.device == "cpu":
            kernels += self.kernels(EVERY_CPU, call.op)
        ways = forms(spec, call)
        candidates = tuple(candidate(spec, k, ways, inexact or pin == k.name, self.left_out) for k in kernels)
        if pin:
            return self._pinned(pin, call, backend, candidates, ways)
        taken = best(spec, candidates)
        if taken is not None:
            why = f"highest priority ({taken.kernel.priority}) that supports the call"
            return Choice(call.op, backend, taken.kernel, candidates, why, ways[taken.form], taken.form)
        if any(k.backend == backend.name for k in kernels) and not backend.by_reference:
            reasons = "; ".join(f"{c.kernel.id}: {c.reason}" for c in candidates)
            raise UnsupportedError(f"{spec.name}: no kernel of backend {backend.name!r} supports this call ({reasons})")
        if backend.xp is None:
            raise UnsupportedError(
                f"{call.op}: backend {backend.name!r} has no kernel for it and no namespace for references"
            )
        by, how = ("composed", "other ops") if spec.composed else ("reference", "the op's reference")
        why = "no kernel of its own takes it" if kernels else "no kernel of its own"
        return Choice(call.op, backend, None, candidates, f"{why}: runs by {how}", call, by=by)

    def _pinned(
        self, pin: str, call: Call, backend: Backend, candidates: tuple[Candidate, ...], ways: Mapping[Form, Call]
    ) -> Choice:
        if backend.xp is not None and (pin == "reference" or (pin == "composed" and self.spec(call.op).composed)):
            return Choice(call.op, backend, None, candidates, "pinned", call, by=pin)
        for one in candidates:
            if one.kernel.name == pin:
                if one.reason:
                    raise UnsupportedError(
                        f"{call.op}: pinned kernel {one.kernel.id} does not support this call: {one.reason}"
                    )
                return Choice(call.op, backend, one.kernel, candidates, "pinned", ways[one.form], one.form)
        names = [one.kernel.name for one in candidates]
        raise UnknownNameError(f"{call.op}: backend {backend.name!r} has no kernel {pin!r}.{suggest(pin, names)}")

    def left_out(self, kernel: Kernel) -> frozenset[str]:
        """The optional arguments that a kernel does not take; none where it cannot be loaded, which its use will
        tell."""
        if kernel.id not in self._missing:
            spec = self.spec(kernel.op)
            try:
                self._missing[kernel.id] = optional_arguments_left_out(spec, kernel.function(spec))
            except PluginError:
                self._missing[kernel.id] = frozenset()
        return self._missing[kernel.id]

    def bind(self, choice: Choice) -> BoundKernel:
        """A choice made ready for its call. Raises `PluginError` where the kernel cannot be loaded."""
        return BoundKernel(self.spec(choice.op), choice, self._function(choice), self.expanded)

    def _function(self, choice: Choice) -> Callable[..., Any]:
        """The function behind a choice, loaded and its signature checked once."""
        key = (choice.id, choice.backend.name, choice.backend.device)
        if key not in self._functions:
            spec = self.spec(choice.op)
            if choice.kernel:
                function, missing = choice.kernel.function(spec), self.left_out(choice.kernel)
                self._functions[key] = _without(function, missing) if missing else function
            elif choice.by == "composed":
                ops = BackendOps(self.dispatcher, choice.backend)
                self._functions[key] = partial(resolve(spec.composed, choice.id), ops)
            else:
                self._functions[key] = reference_function(spec, choice.backend)
        return self._functions[key]

    def expanded(self, weight: QuantWeight, backend: Backend) -> Any:
        """The matrix that a weight stands for, as a native array in the dtype that the weight says: by the backend's
        `dequantize`, or by the scheme's formula in numpy where it has none."""
        call = check_call(self.spec("dequantize"), {"weight": weight.type}, {}, backend.device)
        try:
            bound = self.bind(self.choose(call, backend))
        except UnsupportedError:
            wide = np.float64 if weight.dtype == "float64" else np.float32
            matrix = weight.scheme.dequantize(np, on_host(backend, weight), wide)
            return backend.from_numpy(matrix.astype(numpy_dtype(weight.dtype), copy=False))
        return bound(bound.ready_weight("weight", weight))

    def dispatcher(self, op: str) -> Dispatcher:
        """What runs calls of an op, and remembers what was decided for their forms."""
        if op not in self._dispatchers:
            self._dispatchers[op] = Dispatcher(self.spec(op), self)
        return self._dispatchers[op]

    def check_scheme(self, where: str, name: str, scheme: Scheme) -> None:
        """Raises `InvalidInputError` for a scheme that no plugin brought."""
        known = self.plugins.schemes
        if type(known.get(getattr(scheme, "name", ""))) is not type(scheme):
            names = f"a scheme that is registered ({', '.join(sorted(known))}; the hook is tinyllm_schemes)"
            raise invalid(where, name, names, getattr(scheme, "name", repr(scheme)))

    def check_weight(self, where: str, name: str, weight: QuantWeight, backend: Backend) -> None:
        """Raises `InvalidInputError` where the scheme is of no plugin, or the weight does not fit it."""
        self.check_scheme(where, f"{name}: scheme", weight.scheme)
        check_quant_weight(
            where,
            name,
            weight,
            lambda a: str(a.dtype) if isinstance(a, np.ndarray) else backend.dtype_name(a),
            partial(on_host, backend),
        )

    def owner(self, array: Any) -> str | None:
        """The name of the backend whose array this is; None: nobody's."""
        for base in type(array).__mro__:
            full = f"{base.__module__}.{base.__qualname__}"
            for plugin in self.plugins.backends.values():
                if full in plugin.array_types:
                    return plugin.name
        return None

    def check_dtypes(self, call: Call, backend: Backend) -> None:
        """Those of the inputs and outputs are the backend's; otherwise `UnsupportedError`."""
        dtypes = {n: t.dtype for n, t in call.inputs.items() if isinstance(t, ArrayType)}
        if "dtype of T" in call.dims:
            dtypes |= dict([call.dims["dtype of T"]])
        for name, dtype in dtypes.items():
            if dtype in FLOATS and dtype not in backend.dtypes:
                supported = ", ".join(sorted(backend.dtypes))
                raise UnsupportedError(
                    f"{call.op}: {name}: backend {backend.name}:{backend.device} has no {dtype} (it has {supported})"
                )


def _load(plugin: BackendPlugin, device: str | None) -> Backend:
    with plugin_code(f"backend {plugin.name!r}: load", BackendUnavailableError, passing=(TinyllmError,)):
        loaded = plugin.load(device)
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


def _without(function: Callable[..., Any], missing: frozenset[str]) -> Callable[..., Any]:
    """A function that is also given arguments that it does not take, where those are at their defaults."""
    return lambda *args, **kwargs: function(*args, **{n: value for n, value in kwargs.items() if n not in missing})


@cache
def default_registry() -> Registry:
    """The registry of this process: all installed plugins, and the settings as they stood at first use."""
    return Registry()
