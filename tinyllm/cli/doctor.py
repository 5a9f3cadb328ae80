"""`tinyllm doctor`: what is there, what is slow, and how to mend it."""

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
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def doctor(as_json: options.Json = False) -> None:
    """Examine this machine, and say what could be faster.

    Looks at versions, devices, BLAS, threads, plugins and models.
    """
    from tinyllm.cli.output import note, print_json, print_table
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    about = {name: _about(registry, name) for name in registry.plugins.backends}
    findings = {
        "machine": _machine(),
        "packages": _packages(),
        **{f"backend {name}": facts for name, facts in about.items()},
    }
    advice = list(_advice(registry, about))
    if as_json:
        print_json({"findings": findings, "advice": advice})
        return
    rows = [(part, key, value) for part, facts in findings.items() for key, value in facts.items()]
    print_table(["part", "what", "found"], rows, grouped=True)
    for line in advice:
        note(f"- {line}")
    note("Nothing to mend." if not advice else f"{len(advice)} thing(s) to look at.")


def _machine() -> dict[str, str]:
    import os
    import platform

    import numpy as np

    from tinyllm import __version__

    build: Any = np.show_config(mode="dicts")
    blas = build["Build Dependencies"]["blas"]
    limits = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    return {
        "tinyllm": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cores": f"{_cores()} of {os.cpu_count()} may be used",
        "thread limits": ", ".join(limits) or "none set",
        "vector extensions": ", ".join(build["SIMD Extensions"].get("found", [])),
        "numpy's BLAS": f"{blas['name']} {blas.get('version', '')}",
    }


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def _packages() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _about(registry: Registry, name: str) -> dict[str, str]:
    """What a backend says about itself when it is loaded."""
    from tinyllm.errors import TinyllmError

    probe = registry.probe(name)
    if not probe.available:
        return {"available": f"no: {probe.reason}"}
    try:
        backend = registry.backend(name)
    except TinyllmError as error:
        return {"available": f"no: {error}"}
    computes = f"{backend.compute_dtype} (it has {', '.join(sorted(backend.dtypes))})"
    return {"available": probe.reason, "devices": ", ".join(probe.devices), "computes in": computes, **backend.about()}


def _advice(registry: Registry, about: dict[str, dict[str, str]]) -> Iterator[str]:
    """What is missing or slow, each with what to do."""
    import os

    from tinyllm.cli.models import find
    from tinyllm.models.download import sources

    for name, facts in about.items():
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
        if value.isdigit() and int(value) < _cores():
            yield f"{variable}={value} keeps {_cores() - int(value)} of {_cores()} cores idle; unset it for full speed"
    if not any(find(name) for name in sources.KNOWN):
        yield "no known model is on this machine yet; bring one with: tinyllm pull"
