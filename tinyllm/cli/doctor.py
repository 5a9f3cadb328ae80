"""`tinyllm doctor`: what this machine has, what makes it slow, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tinyllm.cli import options

if TYPE_CHECKING:
    from tinyllm.registry.registry import Registry

PACKAGES = (
    "numpy",
    "torch",
    "mlx",
    "mkl",
    "tokenizers",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "pluggy",
    "typer",
    "rich",
)


def doctor(as_json: options.Json = False) -> None:
    """Examine this machine, and say what could be faster.

    It looks at versions, devices, BLAS, threads, plugins and models.
    """
    from tinyllm.cli.output import note, print_json, print_table
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    backends = {name: _about(registry, name) for name in registry.plugins.backends}
    findings = {
        "machine": _machine(),
        "packages": _packages(),
        **{f"backend {name}": facts for name, facts in backends.items()},
        "plugins": {"commands": ", ".join(f"tinyllm {name}" for name in registry.plugins.commands) or "none"},
    }
    advice = list(_advice(registry, backends))
    if as_json:
        print_json({"findings": findings, "advice": advice})
        return
    rows = [(part, key, value) for part, facts in findings.items() for key, value in facts.items()]
    print_table(["part", "what", "found"], rows, grouped=True)
    for line in advice:
        note(f"- {line}")
    note("Nothing to mend." if not advice else f"{len(advice)} thing(s) to look at.")


def _machine() -> dict[str, str]:
    """Versions of Python and numpy's BLAS, cores, and the limits that are set on threads."""
    import os
    import platform

    import numpy as np

    from tinyllm import __version__
    from tinyllm.conformance.reports.machine import THREAD_VARIABLES, cores

    build: Any = np.show_config(mode="dicts")
    blas = build["Build Dependencies"]["blas"]
    limits = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    return {
        "tinyllm": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cores": f"{cores()} of {os.cpu_count()} may be used",
        "thread limits": ", ".join(limits) or "none set",
        "vector extensions": ", ".join(build["SIMD Extensions"].get("found", [])),
        "numpy's BLAS": f"{blas['name']} {blas.get('version', '')}",
    }


def _packages() -> dict[str, str]:
    """The installed version of each package that can matter here."""
    from importlib import metadata

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _about(registry: Registry, name: str) -> dict[str, str]:
    """Whether a backend can run here, and what it says about itself once it is loaded."""
    from tinyllm.errors import TinyllmError, plugin_code

    probe = registry.probe(name)
    if not probe.available:
        return {"available": f"no: {probe.reason}"}
    try:
        backend = registry.backend(name)
        with plugin_code(f"backend {name!r}: about"):
            about = backend.about()
    except TinyllmError as error:
        return {"available": f"no: {error}"}
    computes = f"{backend.compute_dtype} (it has {', '.join(sorted(backend.dtypes))})"
    return {"available": probe.reason, "devices": ", ".join(probe.devices), "computes in": computes, **about}


def _advice(registry: Registry, backends: dict[str, dict[str, str]]) -> Iterator[str]:
    """A line for each thing that is missing or slow, with what to do about it."""
    import os

    from tinyllm.cli.models import find
    from tinyllm.conformance.reports.machine import THREAD_VARIABLES, cores
    from tinyllm.models.download import sources

    for name, facts in backends.items():
        if facts["available"].startswith("no: "):
            install = registry.plugins.backends[name].install
            yield f"backend {name} cannot run: {facts['available'][4:]}" + (
                f"; install it with: {install}" if install else ""
            )
        # a backend says in its own words what makes it slow, and how to mend it
        yield from (f"backend {name}: {key} {value}" for key, value in facts.items() if "slow" in value)
    for name, error in registry.plugins.broken.items():
        yield f"plugin {name} is broken and was left out: {type(error).__name__}: {error}"
    if "OPENBLAS_CORETYPE" in os.environ:
        yield (
            f"OPENBLAS_CORETYPE={os.environ['OPENBLAS_CORETYPE']} picks the code of numpy's BLAS; unset it "
            f"unless that is this processor"
        )
    for variable in THREAD_VARIABLES:
        value = os.environ.get(variable, "")
        if value.isdigit() and int(value) < cores():
            yield f"{variable}={value} keeps {cores() - int(value)} of {cores()} cores idle; unset it for full speed"
    if not any(find(name) for name in sources.KNOWN):
        yield "no known model is on this machine yet; download one with: tinyllm pull"
