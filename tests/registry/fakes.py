"""Small backends and plugins, so that the core is tested without an array library but numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import numpy as np
import tinyllm_numpy

from tinyllm.catalogue import CATALOGUE
from tinyllm.plugins.backend import Backend, BackendPlugin, Probe
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import Kernel
from tinyllm.plugins.load import Plugins, load_plugins
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import Setting, default_settings
from tinyllm.spec.op_spec import SPEC_VERSION


class Box:
    """A native array: numpy in a box, with nothing of numpy's but shape and dtype."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype


class RedBox(Box):
    """The array of backend `red`."""


class BlueBox(Box):
    """The array of backend `blue`."""


class BoxBackend(Backend):
    """A library of boxes: float32 only, no namespace for references."""

    def __init__(self, name: str, box: type[Box], device: str = "cpu") -> None:
        self.name, self.box, self.device = name, box, device
        self.dtypes = frozenset({"float32"})

    def from_numpy(self, array: np.ndarray) -> Box:
        return self.box(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        result: np.ndarray = array.array
        return result

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)


def box_softmax(x: Any, *, axis: int = -1) -> Any:
    weights = np.exp(x.array - x.array.max(axis=axis, keepdims=True))
    return type(x)(weights / weights.sum(axis=axis, keepdims=True))


def box_sdpa(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    sinks: Any = None,
    scale: Any = None,
    causal: bool = False,
    window: Any = None,
    softcap: Any = None,
) -> Any:
    """Not attention: it shows that q, k, v and the mask came as boxes."""
    assert all(isinstance(a, Box) for a in (q, k, v, mask))
    return type(q)(mask.array @ v.array)


def box_kernels(backend: str) -> list[Kernel]:
    return [Kernel(backend, "softmax", "box", lambda: box_softmax), Kernel(backend, "sdpa", "box", lambda: box_sdpa)]


def backend_plugin(
    name: str,
    *,
    score: int = 0,
    available: bool = True,
    version: int = SPEC_VERSION,
    devices: tuple[str, ...] = ("cpu",),
) -> BackendPlugin:
    """A plugin for a backend of boxes: red ones for `red`, blue ones for all others."""
    box = RedBox if name == "red" else BlueBox

    def load(device: str | None) -> Backend:
        return BoxBackend(name, box, device or devices[0])

    types = (f"{box.__module__}.{box.__qualname__}",) if name in ("red", "blue") else ()
    probe = Probe(available, "made up" if available else "its library is missing", score, devices)
    return BackendPlugin(name, lambda: probe, load, types, f"pip install {name}", version)


def module(name: str, *, backends: Iterable[Any] = (), kernels: Iterable[Any] = (), **others: Any) -> ModuleType:
    """A plugin module with these hooks; `others` are put in as they are."""
    made = ModuleType(name)
    made.tinyllm_backends = hookimpl(lambda: list(backends))  # type: ignore[attr-defined]
    made.tinyllm_kernels = hookimpl(lambda: list(kernels))  # type: ignore[attr-defined]
    for attribute, value in others.items():
        setattr(made, attribute, value)
    return made


def colour(name: str, **settings: Any) -> ModuleType:
    """A whole plugin: a backend of boxes with its kernels."""
    return module(f"plugin_{name}", backends=[backend_plugin(name, **settings)], kernels=box_kernels(name))


def red(*kernels: Kernel, **settings: Any) -> Registry:
    """A registry of backend `red` with these kernels, and settings as if `tinyllm.toml` said so."""
    return registry(module("red", backends=[backend_plugin("red")], kernels=kernels), settings=settings)


def plugins(*modules: Any, found: Iterable[EntryPoint] = ()) -> Plugins:
    """numpy and these."""
    return load_plugins(CATALOGUE, found=found, extra=(tinyllm_numpy, *modules))


def registry(*modules: Any, found: Iterable[EntryPoint] = (), settings: Mapping[str, Any] | None = None) -> Registry:
    """A registry of numpy and these plugins; settings as if `tinyllm.toml` said so."""
    given = {name: Setting(value, "tinyllm.toml") for name, value in (settings or {}).items()}
    return Registry(plugins(*modules, found=found), default_settings() | given)
