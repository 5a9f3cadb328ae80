"""The native backend: kernels in C, compiled for the processor when tinyllm is installed."""

from __future__ import annotations

from tinyllm.plugins import Backend, BackendPlugin, Command, Probe, hookimpl
from tinyllm_native.find import BUILD, find_library


def _probe() -> Probe:
    found = find_library()
    return Probe(True, found.reason, score=40) if found.level else Probe(False, found.reason)


def _load(device: str | None) -> Backend:
    from tinyllm_native.backend import NativeBackend

    return NativeBackend(device)


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """C on a CPU."""
    return [BackendPlugin("native", _probe, _load, install=BUILD)]


@hookimpl
def tinyllm_commands() -> list[Command]:
    """`tinyllm native`, which compiles it."""
    return [Command("native", "tinyllm_native.commands:app")]
