"""Plugins: what they bring counts whole or not at all, and a broken one harms no other."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core.fakes import backend_plugin, box_softmax, colour, module, plugins, registry
from tinyllm import hookspecs
from tinyllm.backend import Kernel
from tinyllm.errors import BackendUnavailableError, PluginError
from tinyllm.hookspecs import hookimpl
from tinyllm.spec import SPEC_VERSION

HOOKS = [name for name in dir(hookspecs) if name.startswith("tinyllm_")]
DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


def _error(broken: ModuleType, *others: ModuleType) -> Exception:
    """The error that keeps a plugin out; numpy and the others are in."""
    found = plugins(*others, broken, colour("red"))
    assert {"numpy", "red"} <= found.backends.keys()
    assert list(found.broken) == [broken.__name__]
    return found.broken[broken.__name__]


def test_import_error_is_kept_with_its_cause() -> None:
    """The others work; selecting the broken one raises its own error as the cause."""
    asked = registry(colour("red"), found=[EntryPoint("torn", "no_such_module_anywhere", "tinyllm")])
    assert asked.backend("red").name == "red"
    with pytest.raises(BackendUnavailableError, match="'torn': its plugin is broken: ModuleNotFoundError") as caught:
        asked.backend("torn")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_hook_that_raises() -> None:
    def fail() -> Any:
        raise OSError("no such library")

    assert isinstance(_error(module("torn", tinyllm_ops=hookimpl(fail))), OSError)


def test_a_broken_plugin_brings_nothing() -> None:
    """Its backend is fine, its ops are not: neither is in."""
    broken = module("torn", backends=[backend_plugin("blue")], tinyllm_ops=hookimpl(lambda: 1 / 0))
    assert "blue" not in plugins(broken).backends


def test_two_plugins_of_one_name() -> None:
    first, second = colour("blue"), module("other_blue", backends=[backend_plugin("blue")])
    assert "backend 'blue' is already provided" in str(_error(second, first))


def test_misspelt_hook() -> None:
    error = _error(module("torn", tinyllm_kernel=hookimpl(lambda: None)))
    assert isinstance(error, PluginError) and "unknown hook 'tinyllm_kernel'. Did you mean 'tinyllm_kernels'?" in str(error)


def test_misspelt_hook_parameter() -> None:
    error = _error(module("torn", tinyllm_ops=hookimpl(lambda catalogue: [])))
    assert "catalogue" in str(error)


def test_spec_version() -> None:
    """Both numbers are named."""
    error = _error(module("torn", backends=[backend_plugin("blue", version=SPEC_VERSION + 1)]))
    assert f"spec version {SPEC_VERSION + 1}, this is version {SPEC_VERSION}" in str(error)


def test_op_of_a_taken_name() -> None:
    softmax = registry().spec("softmax")
    assert "'softmax' is already in the catalogue" in str(_error(module("torn", tinyllm_ops=hookimpl(lambda: [softmax]))))


def test_kernel_of_an_unknown_op() -> None:
    found = plugins(module("torn", kernels=[Kernel("numpy", "sofmax", "fast", lambda: box_softmax)]))
    assert "Did you mean 'softmax'?" in str(found.broken["numpy/sofmax:fast"])
    assert all(k.op != "sofmax" for k in found.kernels)


def test_kernel_registered_twice() -> None:
    one = Kernel("numpy", "softmax", "fast", lambda: box_softmax)
    found = plugins(module("a", kernels=[one]), module("b", kernels=[one]))
    assert "registered twice" in str(found.broken["numpy/softmax:fast"])
    assert sum(k.id == one.id for k in found.kernels) == 1


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented(name: str) -> None:
    """In its docstring, and on the page for authors of plugins."""
    assert getattr(hookspecs, name).__doc__
    assert name in DOCS.read_text(encoding="utf-8")


def test_there_are_hooks() -> None:
    assert {"tinyllm_backends", "tinyllm_kernels", "tinyllm_ops", "tinyllm_families"} <= set(HOOKS)
