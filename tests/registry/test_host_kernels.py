"""Kernels of numpy arrays: one serves every backend on a CPU, and nothing is copied where memory can be shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.catalogue.harness import backends, registry, with_kernels
from tinyllm import Affine, Int8, QuantWeight
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.conformance.subject import to_native
from tinyllm.ops import make_ops
from tinyllm.plugins.kernel import Kernel
from tinyllm.spec.quantized import dense
from tinyllm.spec.types import Call

SHARED = [name for name in backends() if name != "mlx"]
"""Backends whose arrays and numpy's share memory."""
WEIGHT = SCHEMES["q4_0"].draw(np.random.default_rng(0), (4, 64))
X = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)


def recording(function: Callable[..., Any], seen: list[Any]) -> Callable[..., Any]:
    """The same function, which puts down what it is given."""

    def run(*args: Any, **kwargs: Any) -> Any:
        seen.append((*args, *kwargs.values()))
        return function(*args, **kwargs)

    return run


def every_cpu(op: str, function: Callable[..., Any], seen: list[Any], **more: Any) -> Kernel:
    return Kernel("*", op, "host", lambda: recording(function, seen), arrays="host", priority=99, **more)


def is_native(name: str, value: Any) -> bool:
    return isinstance(value, type(registry().backend(name).from_numpy(np.ones(1, np.float32))))


@pytest.mark.parametrize("name", backends())
def test_a_numpy_kernel_serves_every_cpu(name: str) -> None:
    """It gets numpy arrays and gives native ones, for inputs of either kind; attributes are as they are."""
    seen: list[Any] = []
    backend = registry().backend(name)
    ops = make_ops(with_kernels(every_cpu("softmax", lambda x, *, axis=-1: x * 2, seen)))
    native = ops["softmax"](backend.from_numpy(X), axis=0)
    assert is_native(name, native)
    np.testing.assert_array_equal(backend.to_numpy(native), X * 2)
    np.testing.assert_array_equal(ops["softmax"](X, axis=0, backend=name), X * 2)
    assert [(type(x), axis) for x, axis in seen] == [(np.ndarray, 0)] * 2


@pytest.mark.parametrize("name", SHARED)
def test_nothing_is_copied_for_a_numpy_kernel(name: str) -> None:
    """Neither on the way in nor on the way out, and 16-bit numbers no more than others."""
    seen: list[Any] = []
    outputs: list[np.ndarray] = []

    def silu(x: np.ndarray) -> np.ndarray:
        outputs.append(x * 2)
        return outputs[-1]

    backend = registry().backend(name)
    op = make_ops(with_kernels(every_cpu("silu", silu, seen)))["silu"]
    for dtype in (np.float32, ml_dtypes.bfloat16):
        x = backend.from_numpy(X.astype(dtype))
        y = op(x)
        assert seen[-1][0].dtype == outputs[-1].dtype == dtype
        assert np.shares_memory(seen[-1][0], backend.to_numpy(x))
        assert np.shares_memory(outputs[-1], backend.to_numpy(y))


@pytest.mark.parametrize("name", backends())
def test_a_numpy_kernel_of_several_outputs(name: str) -> None:
    seen: list[Any] = []
    kernel = every_cpu("split", lambda x, *, sizes, axis=-1: tuple(np.split(x, np.cumsum(sizes)[:-1], axis)), seen)
    backend, op = registry().backend(name), make_ops(with_kernels(kernel))["split"]
    parts = op(backend.from_numpy(X), sizes=(16, 48))
    assert isinstance(parts, tuple) and all(is_native(name, part) for part in parts)
    np.testing.assert_array_equal(np.concatenate([backend.to_numpy(part) for part in parts], -1), X)


@pytest.mark.parametrize("name", backends())
def test_a_numpy_kernel_that_makes_a_quantized_weight(name: str) -> None:
    kernel = every_cpu("quantize", lambda w, *, scheme=Affine(): scheme.quantize(np, w), [])  # noqa: B008
    backend, op = registry().backend(name), make_ops(with_kernels(kernel))["quantize"]
    weight = op(backend.from_numpy(X), scheme=Int8(32))
    assert isinstance(weight, QuantWeight) and all(is_native(name, a) for a in weight.arrays.values())
    assert all(isinstance(a, np.ndarray) for a in op(X, scheme=Int8(32), backend=name).arrays.values())


@pytest.mark.parametrize("native", [False, True], ids=["numpy", "native"])
@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("packs", [False, True], ids=["plain", "packing"])
def test_weights_of_a_numpy_kernel(name: str, packs: bool, native: bool) -> None:
    """Dense ones and quantized ones, whatever their arrays are; packed or not."""
    seen: list[Any] = []
    prepared: list[Any] = []

    def prepare(weight: Any, call: Call) -> Any:
        prepared.append(weight)
        return ("packed", weight)

    def linear(x: np.ndarray, weight: Any, *, bias: Any = None) -> np.ndarray:
        matrix = dense(np, weight[1] if packs else weight, np.float32)
        return np.asarray(x @ matrix.T)

    kernel = every_cpu("linear", linear, seen, schemes=("dense", "q4_0"), prepare=prepare if packs else None)
    backend, op = registry().backend(name), make_ops(with_kernels(kernel))["linear"]
    matrix = dense(np, WEIGHT, np.float32)
    for weight in (WEIGHT, matrix):
        y = op(X, to_native(backend, weight) if native else weight, backend=name)
        np.testing.assert_allclose(backend.to_numpy(y) if native else y, X @ matrix.T, rtol=1e-4, atol=1e-5)
    quantized, plain = (weight[1] if packs else weight for _, weight in seen)
    assert isinstance(quantized.arrays["blocks"], np.ndarray) and isinstance(plain, np.ndarray)
    assert len(prepared) == (2 if packs else 0)
    if name in SHARED:
        assert np.shares_memory(quantized.arrays["blocks"], WEIGHT.arrays["blocks"])
        assert np.shares_memory(plain, matrix)
