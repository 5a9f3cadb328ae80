"""The numpy backend: always there, and the plainest to read."""

from __future__ import annotations

from tinyllm.backend import Backend, BackendPlugin, Probe
from tinyllm.hookspecs import hookimpl


def _probe() -> Probe:
    return Probe(True, "numpy is a dependency of the core", score=10)


def _load(device: str | None) -> Backend:
    from tinyllm_numpy.backend import NumpyBackend

    return NumpyBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """numpy itself."""
    return [BackendPlugin("numpy", _probe, _load)]
