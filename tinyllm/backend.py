"""What a plugin provides: a backend (a library on a device) and its kernels."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.errors import PluginError, SignatureError
from tinyllm.spec import SPEC_VERSION, Call, OpSpec


@dataclass(frozen=True)
class Probe:
    """What a look at the machine found, without importing an array library. `reason` says why not, or what is there.

    score: the best available backend with the highest score is used when nobody chose one.
    devices: the names behind `name:device`, the default first.
    """

    available: bool
    reason: str
    score: int = 0
    devices: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True)
class BackendPlugin:
    """A backend as it is registered.

    Args:
        name: what users select, `torch`.
        probe: cheap, imports no array library.
        load: gives the `Backend` for a device name (None: the default device).
        array_types: full names of the library's array class (`torch.Tensor`), so that native arrays find their backend.
        install: what a user runs to get the library.
        spec_version: the `SPEC_VERSION` this backend was written for; state the number.
    """

    name: str
    probe: Callable[[], Probe]
    load: Callable[[str | None], Backend]
    array_types: tuple[str, ...] = ()
    install: str = ""
    spec_version: int = SPEC_VERSION


class Backend(ABC):
    """An array library on a device. Everything but the abstract methods has a default that is right, if slow."""

    name: str
    device: str = "cpu"
    dtypes: frozenset[str] = frozenset({"float32"})
    compute_dtype: str = "float32"
    """The dtype that activations of a model have by default on this device."""
    xp: Any = None
    """The array namespace that references run on (see `reference_profile`); None: this backend has a kernel for every op."""

    heads_first: bool = False
    """Pages of a cache `[P, H, page, D]` lie in memory head by head, so that a run of neighbouring pages is read in place. For
    libraries whose arrays are views that are written through; they get such pages by `from_numpy`."""

    @abstractmethod
    def from_numpy(self, array: np.ndarray) -> Any:
        """A native array of the same shape and dtype; may share memory. bfloat16 comes as `ml_dtypes.bfloat16`."""

    @abstractmethod
    def to_numpy(self, array: Any) -> np.ndarray:
        """A read-only view or a copy, computed and ready; bfloat16 as `ml_dtypes.bfloat16`."""

    @abstractmethod
    def dtype_name(self, array: Any) -> str:
        """The dtype of a native array, as numpy names it."""

    def device_of(self, array: Any) -> str:
        """Where a native array lies; this backend's device where the library does not tell."""
        return self.device

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A native array of zeros, owned by the caller alone."""
        import ml_dtypes

        return self.from_numpy(np.zeros(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))

    def astype(self, array: Any, dtype: str) -> Any:
        """The same numbers in another dtype."""
        import ml_dtypes

        return self.from_numpy(self.to_numpy(array).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))

    def synchronize(self, *arrays: Any) -> None:  # noqa: B027  a default: nothing to wait for
        """Return when the arrays are computed."""

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """A compiled form of a function of native arrays, or None where this device gains nothing by it."""
        return None

    def memory(self) -> Mapping[str, int]:
        """Bytes by name (`active`, `peak`) as far as the library counts them."""
        return {}

    def about(self) -> Mapping[str, str]:
        """Versions and what was found, for `tinyllm doctor`."""
        return {}

    def step_context(self) -> AbstractContextManager[Any]:
        """What binding and each step of a bound program run in (an inference mode, a stream)."""
        return nullcontext()

    call_context: Callable[[], AbstractContextManager[Any]] | None = None
    """What a single op call runs in, where the library would otherwise take another device than this backend's."""


Supports = Callable[[Call], bool | str]


@dataclass(frozen=True)
class Kernel:
    """One implementation of an op for a backend, `backend/op:name`.

    Args:
        load: `"module:function"`, imported at first use, or a function without arguments that gives the function.
            The function has the op's own signature (`OpSpec.signature`), takes and gives native arrays.
        supports: True, or the reason why this kernel does not run such a call. Touches no data.
        priority: the highest that supports the call runs; two of one priority are an error.
        prepare: the packed form of a weight input, made once when a program is bound: `prepare(weight, uses)`, weight a
            native array or a `QuantWeight` of native arrays, uses the inputs it serves (`("quantized_linear.weight",)`);
            empty outside a program, where the form is used once. What it returns is what the function gets for that input.
        prepares: the inputs that `prepare` packs.
        traceable: may stand in a region that `Backend.compile` compiles.
        exact: False where activations or scales are rounded: never a default, chosen by name or by `--fast`.
        spec_version: the `SPEC_VERSION` this kernel was written for; state the number.
    """

    backend: str
    op: str
    name: str
    load: str | Callable[[], Callable[..., Any]]
    supports: Supports | None = None
    priority: int = 0
    prepare: str | Callable[[Any, tuple[str, ...]], Any] | None = None
    prepares: tuple[str, ...] = ("weight",)
    traceable: bool = True
    exact: bool = True
    spec_version: int = SPEC_VERSION

    @property
    def id(self) -> str:
        """`torch/sdpa:fused`."""
        return f"{self.backend}/{self.op}:{self.name}"

    def function(self, spec: OpSpec) -> Callable[..., Any]:
        """The function itself, its signature checked against the spec."""
        function = resolve(self.load, self.id) if isinstance(self.load, str) else self._loaded(self.load)
        if not callable(function):
            raise PluginError(f"{self.id}: load: expected a function, got {function!r}")
        try:
            signature = inspect.signature(function)
        except ValueError:  # a builtin without one: the conformance tests judge it
            return function
        _check_signature(self.id, spec, signature)
        return function

    def _loaded(self, load: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        try:
            return load()
        except (Exception, SystemExit) as error:  # a plugin's function may raise anything
            raise PluginError(f"{self.id}: load failed: {type(error).__name__}: {error}") from error

    def prepare_function(self) -> Callable[[Any, tuple[str, ...]], Any] | None:
        """The `prepare` function, imported."""
        return resolve(self.prepare, self.id) if isinstance(self.prepare, str) else self.prepare


def resolve(path: str, owner: str) -> Callable[..., Any]:
    """`"module:function"` as the function."""
    module, _, name = path.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything
        raise PluginError(f"{owner}: cannot load {path!r}: {type(error).__name__}: {error}") from error
    return function


def _check_signature(kernel: str, spec: OpSpec, signature: inspect.Signature) -> None:
    """Callers give required inputs by position or by name, all else by name, and leave out what has a default."""
    wanted, given = spec.signature.parameters, signature.parameters
    kinds = {p.kind for p in given.values()}
    order = [n for n, p in given.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = [i.name for i in spec.positional]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        required = required[: len(order)]
    named = [n for n, p in given.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [] if inspect.Parameter.VAR_KEYWORD in kinds else [n for n in wanted if n not in named]
    defaults = [n for n in named if n in wanted and given[n].default != wanted[n].default]
    surplus = [n for n, p in given.items() if n not in wanted and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if order[: len(required)] != required or missing or defaults or surplus:
        raise SignatureError(f"{kernel}: signature {signature} does not match {spec.name}{spec.signature}")
