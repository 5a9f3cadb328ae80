"""Who lends a kernel: a backend of the kernel's own package, which can run here. Else it is held to everything."""

from __future__ import annotations

from typing import Any

import pytest

from tests.catalogue.harness import backends, registry
from tests.conformance.fake_backend import FakeBackend
from tests.registry.fakes import module
from tests.registry.fakes import registry as registry_of
from tinyllm.conformance.subject import Subject, subjects
from tinyllm.errors import PluginError
from tinyllm.plugins.backend import BackendPlugin, Probe
from tinyllm.plugins.kernel import EVERY_CPU, Kernel

CPU = Probe(True, "made up")


def lender(kernel: Kernel, *plugins: BackendPlugin) -> str:
    """Of a kernel on the first of some backends."""
    made = registry_of(module("plugin_fake", backends=plugins, kernels=[kernel, _as(kernel, plugins[-1].name)]))
    backend = FakeBackend()
    backend.name = plugins[0].name
    return Subject(made, backend, made.spec("add"), kernel).lender


def _as(kernel: Kernel, backend: str) -> Kernel:
    return Kernel(backend, kernel.op, "own", kernel.load)


def of(package: str, name: str, probe: Probe = CPU) -> BackendPlugin:
    """A backend of a package."""

    def load(device: str | None) -> Any:
        raise PluginError("not for running")

    load.__module__ = f"{package}.backend"
    return BackendPlugin(name, lambda: probe, load)


LENT = Kernel("mine", "add", "lent", "lending.ops:add")


def test_every_function_is_held_to_everything_by_a_backend_that_can_run_here() -> None:
    """All that are registered for it."""
    names = backends()
    asked = registry()
    held = {
        subject.kernel.load
        for name in names
        for spec in asked.specs.values()
        for subject in subjects(asked, asked.backend(name), spec)
        if subject.kernel and not subject.lender
    }
    here = [kernel for kernel in asked.plugins.kernels if kernel.backend in (*names, EVERY_CPU)]
    assert len(here) > 30 and [kernel.id for kernel in here if kernel.load not in held] == []


@pytest.mark.parametrize(
    ("plugins", "wanted"),
    [
        ([of("another", "mine"), of("lending", "theirs")], "theirs"),
        ([of("lending", "mine"), of("lending", "theirs")], ""),
        ([of("another", "mine"), of("third", "theirs")], ""),
        ([of("another", "mine"), of("lending", "theirs", Probe(False, "not built"))], ""),
    ],
    ids=["another package's", "two of one package", "of neither", "cannot run here"],
)
def test_who_lends(plugins: list[BackendPlugin], wanted: str) -> None:
    """Two of one package would lend to each other, and neither hold its kernels to everything."""
    assert lender(LENT, *plugins) == wanted


@pytest.mark.parametrize(("devices", "wanted"), [(("cpu", "cuda"), "theirs"), (("cuda", "cpu"), "")])
def test_kernels_of_every_cpu_are_lent_by_a_cpu(devices: tuple[str, ...], wanted: str) -> None:
    """Elsewhere they do not run, so that the borrower is held to everything."""
    kernel = Kernel(EVERY_CPU, "add", "shared", "lending.ops:add", arrays="host")
    theirs = of("lending", "theirs", Probe(True, "made up", devices=devices))
    made = registry_of(module("plugin_fake", backends=[of("another", "mine"), theirs], kernels=[kernel]))
    backend = FakeBackend()
    backend.name = "mine"
    assert Subject(made, backend, made.spec("add"), kernel).lender == wanted
