"""What tests share: the registry of all that is installed, the backends that can run here, and cases by name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from tinyllm.conformance.example import Example, make_example
from tinyllm.conformance.subject import Subject
from tinyllm.plugins.backend import Backend
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import read_settings
from tinyllm.spec.cases import Case
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.types import Call

BACKENDS = ("numpy", "torch", "mlx", "native")
TIERS = ("smoke", "full")


@cache
def registry() -> Registry:
    """All installed plugins, with default settings."""
    return Registry(settings=read_settings(folder=Path("/nonexistent"), environ={"XDG_CONFIG_HOME": "/nonexistent"}))


def with_kernels(*kernels: Kernel, **settings: str) -> Registry:
    """All that is installed, these kernels and these settings."""
    there = registry()
    changed = {name: replace(there.settings[name], value=value) for name, value in settings.items()}
    plugins = replace(there.plugins, kernels=[*there.plugins.kernels, *kernels])
    return Registry(plugins, {**there.settings, **changed})


def available(name: str) -> bool:
    """Whether a backend can run here."""
    return name in registry().plugins.backends and registry().probe(name).available


def backends() -> list[str]:
    """Our backends that can run here."""
    return [name for name in BACKENDS if available(name)]


@cache
def _scheme_cases(op: str) -> tuple[Case, ...]:
    return tuple(case for s in registry().plugins.schemes.values() for case in registry().spec(op).cases_of(s))


def cases_of(spec: OpSpec, *tiers: str) -> list[Case]:
    """Cases of some tiers (smoke and full) that stand in the spec itself, and those of each scheme."""
    return [case for case in (*spec.cases, *_scheme_cases(spec.name)) if case.tier in (tiers or TIERS)]


@cache
def example(op: str, case_id: str, dtype: str) -> Example:
    """A case by name, made once for all backends."""
    spec = registry().spec(op)
    return make_example(spec, next(c for c in (*spec.all_cases, *_scheme_cases(op)) if c.id == case_id), dtype)


def bound(call: Call, backend: Backend) -> Call:
    """The call as a program makes it, where packing a weight is paid once."""
    return replace(call, device=backend.device, weights_packed=True)


def chosen(tested: Example, backend: Backend, asked: Registry | None = None) -> Subject:
    """The kernel that a program would run."""
    asked = asked or registry()
    return Subject(asked, backend, tested.spec, asked.choose(bound(tested.call, backend), backend).kernel)
