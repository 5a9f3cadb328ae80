"""From a call to its kernel: names, pins, priorities, devices, and no fallback that nobody asked for."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.registry.fakes import BlueBox, BoxBackend, backend_plugin, box_softmax, colour, module, red, registry
from tinyllm import Affine
from tinyllm.errors import BackendUnavailableError, PluginError, UnknownNameError, UnsupportedError
from tinyllm.ops import make_ops
from tinyllm.plugins.backend import Probe
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection, parse_selection, use_backend
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType, Call
from tinyllm.spec.validation import check_call

X = np.ones((2, 3), np.float32)


def _call(asked: Registry, backend: str, dtype: str = "float32") -> Call:
    return check_call(asked.spec("softmax"), {"x": ArrayType((2, 3), dtype)}, {}, asked.backend(backend).device)


def _kernel(name: str, priority: int = 0, answer: Any = True, **more: Any) -> Kernel:
    return Kernel("red", "softmax", name, lambda: box_softmax, lambda call: answer, priority, **more)


def _choose(asked: Registry, **asked_for: Any) -> str:
    return asked.choose(_call(asked, "red"), asked.backend("red"), **asked_for).id


def test_highest_priority_that_supports_the_call() -> None:
    asked = red(_kernel("a", 1), _kernel("b", 3, "only on Tuesdays"), _kernel("c", 2))
    assert _choose(asked) == "red/softmax:c"
    candidates = asked.choose(_call(asked, "red"), asked.backend("red")).candidates
    assert {c.kernel.name: c.reason for c in candidates} == {"a": "", "b": "only on Tuesdays", "c": ""}


def test_equal_priorities_are_an_error_unless_one_is_pinned() -> None:
    with pytest.raises(PluginError, match="red/softmax:a and red/softmax:b have the same priority 0"):
        _choose(red(_kernel("a"), _kernel("b")))
    assert _choose(red(_kernel("a"), _kernel("b"), kernels="red/softmax=b")) == "red/softmax:b"
    assert _choose(red(_kernel("a"), _kernel("b", answer=False))) == "red/softmax:a"


def test_no_kernel_fits() -> None:
    """Each reason is told, and nothing else runs in its place: neither the reference nor another backend."""
    with pytest.raises(UnsupportedError, match=r"red/softmax:a: too wide; red/softmax:b: not supported"):
        _choose(red(_kernel("a", 1, "too wide"), _kernel("b", 0, False)))
    with pytest.raises(UnsupportedError, match="no kernel for it and no namespace"):
        _choose(red())


def test_pins() -> None:
    assert _choose(red(_kernel("a", 1), _kernel("b"), kernels="red/softmax=b")) == "red/softmax:b"
    with pytest.raises(UnsupportedError, match="pinned kernel red/softmax:b does not support this call: too wide"):
        _choose(red(_kernel("a"), _kernel("b", 1, "too wide"), kernels="red/softmax=b"))
    with pytest.raises(UnknownNameError, match=r"no kernel 'scrtch'. Did you mean 'scratch'"):
        _choose(red(_kernel("scratch"), kernels="red/softmax=scrtch"))
    with pytest.raises(UnknownNameError, match=r"tinyllm.toml: kernels: unknown backend 'rde'. Did you mean 'red'"):
        red(_kernel("a"), kernels="rde/softmax=a")
    with pytest.raises(UnknownNameError, match=r"unknown op 'sofmax'. Did you mean 'softmax'"):
        red(_kernel("a"), kernels="red/sofmax=a")


def test_numpy_can_be_pinned_to_its_reference() -> None:
    asked = registry(settings={"kernels": "numpy/rms_norm=reference"})
    assert asked.kernels("numpy", "rms_norm")
    types = {"x": ArrayType((2, 3), "float32"), "weight": ArrayType((3,), "float32")}
    choice = asked.choose(check_call(asked.spec("rms_norm"), types, {}), asked.backend("numpy"))
    assert choice.id == "numpy/rms_norm:reference"


def test_inexact_kernels_are_asked_for() -> None:
    """By name or by `fast`; never by their priority alone."""
    kernels = (_kernel("plain"), _kernel("int8", 9, exact=False))
    assert _choose(red(*kernels)) == "red/softmax:plain"
    assert _choose(red(*kernels), fast=True) == "red/softmax:int8"
    assert _choose(red(*kernels, fast=True)) == "red/softmax:int8"
    assert _choose(red(*kernels, kernels="red/softmax=int8")) == "red/softmax:int8"
    assert _choose(red(*kernels, fast=True), fast=False) == "red/softmax:plain"


def test_unknown_names_suggest() -> None:
    asked = registry(colour("red"))
    with pytest.raises(UnknownNameError, match=r"unknown backend 'numy'. Did you mean 'numpy'"):
        asked.backend("numy")
    with pytest.raises(UnknownNameError, match=r"unknown op 'sdap'. Did you mean 'sdpa'"):
        asked.spec("sdap")
    with pytest.raises(UnknownNameError, match=r"tinyllm.toml: unknown op 'linaer'. Did you mean 'linear'"):
        asked.backend_for("softmax", Selection(None, (("linaer", "red"),), "tinyllm.toml"))


def test_unavailable_backend() -> None:
    """It says why and what to install; asking for it never gives another."""
    asked = registry(colour("red", available=False, score=99))
    assert asked.best() == "numpy"
    with pytest.raises(
        BackendUnavailableError,
        match="'red' is not available: its library is missing; install it with: pip install red",
    ):
        asked.backend("red")
    with pytest.raises(BackendUnavailableError):
        make_ops(asked)["softmax"](X, backend="red")


def test_devices() -> None:
    """`name:device` loads that device, the first being the default; one object for each device."""
    asked = registry(colour("red", devices=("gpu", "cpu")))
    assert asked.backend("red").device == "gpu"
    assert asked.backend("red:cpu").device == "cpu"
    assert asked.backend("red") is asked.backend("red:gpu") is not asked.backend("red:cpu")
    with pytest.raises(BackendUnavailableError, match=r"'red' has no device 'tpu' here \(devices: gpu, cpu\)"):
        asked.backend("red:tpu")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("linear=nope,*=numpy", UnknownNameError, "tinyllm.toml: unknown backend 'nope'"),
        ("nope", UnknownNameError, "tinyllm.toml: unknown backend 'nope'"),
        ("linaer=numpy", UnknownNameError, "tinyllm.toml: unknown op 'linaer'. Did you mean 'linear'"),
        (
            "linear=numpy:gpu7,*=numpy",
            BackendUnavailableError,
            "tinyllm.toml: backend 'numpy' has no device 'gpu7' here",
        ),
        (
            "linear=red,*=numpy",
            BackendUnavailableError,
            "tinyllm.toml: backend 'red' is not available: its library is missing",
        ),
    ],
)
def test_every_name_in_a_selection_is_checked(text: str, error: type[Exception], words: str) -> None:
    """Also those that the call at hand does not need: from settings, from a block and from the argument."""
    asked = registry(colour("red", available=False), settings={"backend": text})
    with pytest.raises(error, match=words):
        asked.select()
    with pytest.raises(error, match=words.replace("tinyllm.toml", "use_backend")), use_backend(text):
        asked.select()
    with pytest.raises(error, match=words.replace("tinyllm.toml", "argument")):
        make_ops(asked)["softmax"](X, backend=text)
    with pytest.raises(error, match=words.replace("tinyllm.toml", "test")):
        asked.backend_for("softmax", parse_selection(text, "test"))


def test_a_selection_is_checked_once_and_loads_nothing() -> None:
    loads: list[str | None] = []
    plugin = replace(backend_plugin("red"), load=lambda device: loads.append(device) or 1 / 0)  # type: ignore[func-returns-value]
    asked = registry(module("red", backends=[plugin]))
    looks: list[str] = []
    find = asked._find
    asked._find = lambda name, where="": looks.append(name) or find(name, where)  # type: ignore[method-assign, func-returns-value]
    for _ in range(3):
        assert asked.select("linear=red,*=numpy") == Selection("numpy", (("linear", "red"),), "argument")
    assert (looks, loads) == (["red", "numpy"], [])


def test_an_empty_device() -> None:
    with pytest.raises(BackendUnavailableError, match="'numpy' has no device ''"):
        registry().backend("numpy:")


def _torn(**changes: Any) -> Registry:
    return registry(module("torn", backends=[replace(backend_plugin("torn", score=99), **changes)]))


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: sys.exit("no licence"), "SystemExit: no licence"),
        (lambda: registry().spec("nope"), "UnknownNameError: unknown op 'nope'"),
        (lambda: None, "PluginError: expected a Probe, got None"),
        (lambda: Probe(True, "", score="high"), "PluginError: Probe: score: expected int, got 'high'"),  # type: ignore[arg-type]
        (lambda: Probe(True, "", devices="cpu"), "PluginError: Probe: devices: expected tuple, got 'cpu'"),  # type: ignore[arg-type]
    ],
)
def test_a_probe_that_fails_is_a_reason(probe: Any, words: str) -> None:
    asked = _torn(probe=probe)
    assert asked.best() == "numpy"
    with pytest.raises(BackendUnavailableError, match=f"'torn' is not available: probe failed: {words}"):
        asked.backend("torn")


class _Nameless(BoxBackend):
    def __init__(self) -> None: ...


@pytest.mark.parametrize(
    ("load", "error", "words"),
    [
        (
            lambda device: 1 / 0,
            BackendUnavailableError,
            "backend 'torn': load failed: ZeroDivisionError: division by zero",
        ),
        (
            lambda device: sys.exit("no licence"),
            BackendUnavailableError,
            "backend 'torn': load failed: SystemExit: no licence",
        ),
        (lambda device: None, PluginError, "backend 'torn': load: expected a Backend, got None"),
        (lambda device: _Nameless(), PluginError, "backend 'torn': name: expected str, got None"),
        (lambda device: BoxBackend("red", BlueBox), PluginError, "backend 'torn': load gave a backend named 'red'"),
    ],
)
def test_a_backend_that_does_not_load(load: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        _torn(load=load).backend("torn")
    assert isinstance(caught.value.__cause__, ZeroDivisionError) == ("ZeroDivisionError" in words)


def test_supports_that_fails_is_a_reason() -> None:
    """Others run in its place, and the reason is told."""
    failing = Kernel("red", "softmax", "failing", lambda: box_softmax, lambda call: 1 / 0, 9)  # type: ignore[arg-type, return-value]
    asked = red(failing, _kernel("vague", 8, None), _kernel("plain"))
    choice = asked.choose(_call(asked, "red"), asked.backend("red"))
    assert choice.id == "red/softmax:plain"
    assert {c.kernel.name: c.reason for c in choice.candidates} == {
        "failing": "supports failed: ZeroDivisionError: division by zero",
        "vague": "supports failed: PluginError: expected True or a reason, got None",
        "plain": "",
    }


def test_dtype_that_a_backend_lacks() -> None:
    asked = registry(colour("red"))
    with pytest.raises(UnsupportedError, match=r"softmax: x: backend red:cpu has no float64 \(it has float32\)"):
        asked.choose(_call(asked, "red", "float64"), asked.backend("red"))


def test_output_dtype_that_a_backend_lacks() -> None:
    """An output in a dtype that the caller chose is not given in another."""
    asked = red()
    call = check_call(asked.spec("dequantize"), {"weight": QuantType((4, 64), Affine(), "float16")}, {})
    with pytest.raises(UnsupportedError, match="dequantize: weight: backend red:cpu has no float16"):
        asked.choose(call, asked.backend("red"))
