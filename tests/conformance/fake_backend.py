"""A backend of numpy arrays by another name, whose kernels a test brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyllm_numpy.backend import NumpyBackend

from tests.registry.fakes import module, registry
from tinyllm.conformance.subject import Subject, subjects
from tinyllm.plugins.backend import BackendPlugin, Probe
from tinyllm.plugins.kernel import ANY_SCHEME, DENSE, Kernel
from tinyllm.registry.registry import Registry
from tinyllm.registry.without_kernel import reference_function


class FakeBackend(NumpyBackend):
    """numpy as a library of its own: all is by reference but what a test brings."""

    name = "fake"

    def __init__(self, dtypes: frozenset[str] = NumpyBackend.dtypes) -> None:
        self.dtypes = dtypes


def fake_registry(*kernels: Kernel, dtypes: frozenset[str] = NumpyBackend.dtypes, **others: Any) -> Registry:
    """numpy and `fake`, with these kernels and hooks."""
    plugin = BackendPlugin("fake", lambda: Probe(True, "made up"), lambda device: FakeBackend(dtypes))
    return registry(module("plugin_fake", backends=[plugin], kernels=kernels, **others))


def subject_of(op: str, function: Callable[..., Any] | None = None, **about: Any) -> Subject:
    """A function as a kernel of an op, which takes quantized weights as they are; None: the op without a kernel."""
    about = {"schemes": (DENSE, ANY_SCHEME), **about}
    made = fake_registry(*([] if function is None else [Kernel("fake", op, "mine", lambda: function, **about)]))
    names = ("composed", "reference") if function is None else ("mine",)
    return next(subject for subject in subjects(made, made.backend("fake"), made.spec(op)) if subject.name in names)


def right(op: str) -> Callable[..., Any]:
    """The op by its reference."""
    made = fake_registry()
    return reference_function(made.spec(op), made.backend("fake"))
