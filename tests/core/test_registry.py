"""From a call to its kernel: names, pins, priorities, devices, and no fallback that nobody asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.core.fakes import backend_plugin, box_softmax, colour, module, registry
from tinyllm.backend import Kernel
from tinyllm.config import Selection
from tinyllm.errors import BackendUnavailableError, InvalidInputError, PluginError, UnknownNameError, UnsupportedError
from tinyllm.ops import make_ops
from tinyllm.registry import Registry
from tinyllm.spec import ArrayType, Call, QuantType
from tinyllm.validation import check_call

X = np.ones((2, 3), np.float32)


def _call(asked: Registry, backend: str, dtype: str = "float32") -> Call:
    return check_call(asked.spec("softmax"), {"x": ArrayType((2, 3), dtype)}, {}, asked.backend(backend).device)


def _kernel(name: str, priority: int = 0, answer: Any = True, **more: Any) -> Kernel:
    return Kernel("red", "softmax", name, lambda: box_softmax, lambda call: answer, priority, **more)


def _red(*kernels: Kernel, **settings: Any) -> Registry:
    return registry(module("red", backends=[backend_plugin("red")], kernels=kernels), settings=settings)


def _choose(asked: Registry, **asked_for: Any) -> str:
    return asked.choose(_call(asked, "red"), asked.backend("red"), **asked_for).id


def test_highest_priority_that_supports_the_call() -> None:
    asked = _red(_kernel("a", 1), _kernel("b", 3, "only on Tuesdays"), _kernel("c", 2))
    assert _choose(asked) == "red/softmax:c"
    candidates = asked.choose(_call(asked, "red"), asked.backend("red")).candidates
    assert {c.kernel.name: c.reason for c in candidates} == {"a": "", "b": "only on Tuesdays", "c": ""}


def test_equal_priorities_are_an_error_unless_one_is_pinned() -> None:
    with pytest.raises(PluginError, match="red/softmax:a and red/softmax:b have the same priority 0"):
        _choose(_red(_kernel("a"), _kernel("b")))
    assert _choose(_red(_kernel("a"), _kernel("b"), kernels="red/softmax=b")) == "red/softmax:b"
    assert _choose(_red(_kernel("a"), _kernel("b", answer=False))) == "red/softmax:a"


def test_no_kernel_fits() -> None:
    """Each reason is told, and nothing else runs in its place: neither the reference nor another backend."""
    with pytest.raises(UnsupportedError, match=r"red/softmax:a: too wide; red/softmax:b: not supported"):
        _choose(_red(_kernel("a", 1, "too wide"), _kernel("b", 0, False)))
    with pytest.raises(UnsupportedError, match="no kernel for it and no namespace"):
        _choose(_red())


def test_pins() -> None:
    assert _choose(_red(_kernel("a", 1), _kernel("b"), kernels="red/softmax=b")) == "red/softmax:b"
    with pytest.raises(UnsupportedError, match="pinned kernel red/softmax:b does not support this call: too wide"):
        _choose(_red(_kernel("a"), _kernel("b", 1, "too wide"), kernels="red/softmax=b"))
    with pytest.raises(UnknownNameError, match=r"no kernel 'scrtch'. Did you mean 'scratch'"):
        _choose(_red(_kernel("scratch"), kernels="red/softmax=scrtch"))
    with pytest.raises(UnknownNameError, match=r"tinyllm.toml: kernels: unknown backend 'rde'. Did you mean 'red'"):
        _red(_kernel("a"), kernels="rde/softmax=a")
    with pytest.raises(UnknownNameError, match=r"unknown op 'sofmax'. Did you mean 'softmax'"):
        _red(_kernel("a"), kernels="red/sofmax=a")


def test_numpy_can_be_pinned_to_its_reference() -> None:
    asked = registry(settings={"kernels": "numpy/rms_norm=reference"})
    assert asked.kernels("numpy", "rms_norm")
    types = {"x": ArrayType((2, 3), "float32"), "weight": ArrayType((3,), "float32")}
    choice = asked.choose(check_call(asked.spec("rms_norm"), types, {}), asked.backend("numpy"))
    assert choice.id == "numpy/rms_norm:reference"


def test_inexact_kernels_are_asked_for() -> None:
    """By name or by `fast`; never by their priority alone."""
    kernels = (_kernel("plain"), _kernel("int8", 9, exact=False))
    assert _choose(_red(*kernels)) == "red/softmax:plain"
    assert _choose(_red(*kernels), fast=True) == "red/softmax:int8"
    assert _choose(_red(*kernels, fast=True)) == "red/softmax:int8"
    assert _choose(_red(*kernels, kernels="red/softmax=int8")) == "red/softmax:int8"
    assert _choose(_red(*kernels, fast=True), fast=False) == "red/softmax:plain"


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
    with pytest.raises(BackendUnavailableError, match="'red' is not available: its library is missing; install it with: pip install red"):
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


def test_a_probe_that_raises_is_a_reason() -> None:
    torn = backend_plugin("torn")
    object.__setattr__(torn, "probe", lambda: 1 / 0)
    asked = registry(module("torn", backends=[torn]))
    assert asked.best() == "numpy"
    with pytest.raises(BackendUnavailableError, match="probe failed: ZeroDivisionError"):
        asked.backend("torn")


def test_dtype_that_a_backend_lacks() -> None:
    asked = registry(colour("red"))
    with pytest.raises(UnsupportedError, match=r"softmax: x: backend red:cpu has no float64 \(it has float32\)"):
        asked.choose(_call(asked, "red", "float64"), asked.backend("red"))


def test_output_dtype_that_a_backend_lacks() -> None:
    """An output in a dtype that the caller chose is not given in another."""
    asked = registry(module("red", backends=[backend_plugin("red")]))
    call = check_call(asked.spec("dequantize"), {"weight": QuantType((4, 64), "affine", 4, 32)}, {"dtype": "float16"})
    with pytest.raises(UnsupportedError, match="dequantize: dtype: backend red:cpu has no float16"):
        asked.choose(call, asked.backend("red"))


def _no_axis(x: Any) -> Any: ...


def _surplus(x: Any, y: Any, *, axis: int = -1) -> Any: ...


def _other_default(x: Any, *, axis: int = 0) -> Any: ...


@pytest.mark.parametrize("function", [_no_axis, _surplus, _other_default])
def test_kernel_of_a_wrong_signature(function: Any) -> None:
    """Found when it is loaded: the message shows both signatures."""
    asked = _red(Kernel("red", "softmax", "torn", lambda: function))
    with pytest.raises(PluginError, match=r"red/softmax:torn: signature \(.*\).* does not match softmax\(x, \*, axis=-1\)"):
        make_ops(asked)["softmax"](X, backend="red")


@pytest.mark.parametrize("path", ["no_such_module:softmax", "tinyllm_numpy.linear:no_such_function"])
def test_kernel_that_cannot_be_loaded(path: str) -> None:
    with pytest.raises(PluginError, match=f"red/softmax:torn: cannot load '{path}'"):
        make_ops(_red(Kernel("red", "softmax", "torn", path)))["softmax"](X, backend="red")


def test_a_kernel_for_a_backend_that_is_not_there_is_harmless() -> None:
    asked = registry(module("extra", kernels=[Kernel("absent", "softmax", "fast", lambda: box_softmax)]))
    assert asked.plugins.broken == {}
    with pytest.raises(UnknownNameError):
        make_ops(asked)["softmax"](X, backend="absent")
    with pytest.raises(InvalidInputError):
        make_ops(asked)["softmax"]("not an array")
