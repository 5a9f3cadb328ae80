"""Kernels that plugins bring: their signatures, and those that do not load or whose backend is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.registry.fakes import box_softmax, module, red, registry
from tinyllm.errors import InvalidInputError, PluginError, PluginWarning, SignatureError, UnknownNameError
from tinyllm.ops import make_ops
from tinyllm.plugins.kernel import Kernel

X = np.ones((2, 3), np.float32)


def _surplus(x: Any, y: Any, *, axis: int = -1) -> Any: ...


def _other_default(x: Any, *, axis: int = 0) -> Any: ...


def _no_default(x: Any, *, axis: int) -> Any: ...


def _another_name(y: Any, *, axis: int = -1) -> Any: ...


def _by_position_alone(x: Any, /, *, axis: int = -1) -> Any: ...


def _by_name_alone(*, x: Any, axis: int = -1) -> Any: ...


def _axis_first(axis: int = -1, x: Any = None) -> Any: ...


@pytest.mark.parametrize(
    "function",
    [_surplus, _other_default, _no_default, _another_name, _by_position_alone, _by_name_alone, _axis_first],
)
def test_kernel_of_a_wrong_signature(function: Any) -> None:
    """Kept aside when its backend is selected, and the warning shows both signatures; the backend goes on working."""
    asked = red(Kernel("red", "softmax", "torn", lambda: function, priority=9))
    with pytest.warns(
        PluginWarning, match=r"red/softmax:torn: signature \(.*\).* does not match softmax\(x, \*, axis=-1\)"
    ):
        asked.backend("red")
    assert "red/softmax:torn" in asked.plugins.broken
    assert "torn" not in [k.name for k in asked.kernels("red", "softmax")]


def test_kernel_with_swapped_inputs() -> None:
    def linear(weight: Any, x: Any, *, bias: Any = None) -> Any: ...

    with pytest.warns(
        PluginWarning, match=r"red/linear:torn: signature \(weight.* does not match linear\(x, weight, \*, bias=None\)"
    ):
        red(Kernel("red", "linear", "torn", lambda: linear)).backend("red")


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("linear", lambda x, *, bias=None: x),
        ("linear", lambda weight, *, bias=None: weight),
        ("sdpa", lambda q, k, *, causal=False: q),
        ("softmax", lambda *, axis=-1: axis),
        ("split", lambda x: x),
        ("mha", lambda query, q_proj, o_proj: query),
    ],
    ids=["no weight", "no x", "no v", "no x by name", "no sizes", "no num_heads"],
)
def test_what_must_be_given_may_not_be_left_out(op: str, function: Any) -> None:
    """Required inputs and attributes: the kernel is kept aside aloud, and all else goes on."""
    asked = red(Kernel("red", op, "torn", lambda: function))
    with pytest.warns(PluginWarning, match=rf"kernel left out: red/{op}:torn: signature .* does not match {op}\("):
        asked.backend("red")
    assert isinstance(asked.plugins.broken[f"red/{op}:torn"], SignatureError)
    assert not asked.kernels("red", op)


@pytest.mark.parametrize(
    "function", [lambda *args, **kwargs: args[0], lambda x, *, axis=-1, more=1: x, lambda x, axis=-1: x]
)
def test_kernel_of_a_wider_signature(function: Any) -> None:
    """What takes every call that the spec allows is taken."""
    asked = red(Kernel("red", "softmax", "wide", lambda: function))
    np.testing.assert_array_equal(make_ops(asked)["softmax"](X, backend="red"), X)


def test_every_kernel_here_has_the_signature_of_its_op() -> None:
    asked = registry()
    for kernel in asked.plugins.kernels:
        kernel.function(asked.spec(kernel.op))


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (lambda: 1 / 0, "load failed: ZeroDivisionError: division by zero"),
        (lambda: None, "load: expected a function, got None"),
    ],
)
def test_kernel_whose_load_fails(load: Any, words: str) -> None:
    with pytest.raises(PluginError, match=f"red/softmax:torn: {words}"):
        make_ops(red(Kernel("red", "softmax", "torn", load)))["softmax"](X, backend="red")


def test_kernel_whose_module_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn_kernels.py").write_text("raise RuntimeError('no such driver')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        PluginError, match="red/softmax:torn: loading 'torn_kernels:softmax' failed: RuntimeError: no such driver"
    ):
        make_ops(red(Kernel("red", "softmax", "torn", "torn_kernels:softmax")))["softmax"](X, backend="red")


@pytest.mark.parametrize("path", ["no_such_module:softmax", "tinyllm_numpy.linear:no_such_function"])
def test_kernel_that_cannot_be_loaded(path: str) -> None:
    with pytest.raises(PluginError, match=f"red/softmax:torn: loading '{path}' failed"):
        make_ops(red(Kernel("red", "softmax", "torn", path)))["softmax"](X, backend="red")


def test_a_kernel_for_a_backend_that_is_not_there_is_harmless() -> None:
    """It is told (see test_plugins), and harms no other."""
    asked = registry(module("extra", kernels=[Kernel("absent", "softmax", "fast", lambda: box_softmax)]))
    assert list(asked.plugins.broken) == ["absent/softmax:fast"]
    with pytest.raises(UnknownNameError):
        make_ops(asked)["softmax"](X, backend="absent")
    with pytest.raises(InvalidInputError):
        make_ops(asked)["softmax"]("not an array")
