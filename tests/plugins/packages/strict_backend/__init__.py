"""A third party's backend on array_api_strict: its array library has no kernel of ours, and every op runs on its first
day."""

from __future__ import annotations

from importlib.util import find_spec

from tinyllm.plugins import Backend, BackendPlugin, Kernel, Probe, hookimpl


def _probe() -> Probe:
    found = find_spec("array_api_strict") is not None
    return Probe(found, "array_api_strict is installed" if found else "array_api_strict is not installed", score=1)


def _load(device: str | None) -> Backend:
    from strict_backend.backend import StrictBackend

    return StrictBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """array_api_strict."""
    types = ("array_api_strict._array_object.Array",)
    return [BackendPlugin("strict", _probe, _load, types, install="pip install array-api-strict")]


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """The first own kernel."""
    return [Kernel("strict", "softmax", "own", "strict_backend.backend:softmax")]
