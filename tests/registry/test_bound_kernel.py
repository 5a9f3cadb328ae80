"""A choice made ready for its call: in which form each input reaches the kernel, and in which context it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.catalogue.harness import backends, registry, with_kernels
from tests.registry.fakes import BoxBackend, RedBox, backend_plugin, module, red
from tests.registry.fakes import registry as plugged
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.ops import Op, make_ops
from tinyllm.plugins.kernel import Kernel
from tinyllm.spec.quantized import dense
from tinyllm.spec.types import ArrayType, Call

WEIGHT = SCHEMES["q4_0"].draw(np.random.default_rng(0), (4, 64))
X = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)


@pytest.mark.parametrize("host", [(), ("ids",)])
@pytest.mark.parametrize("name", backends())
def test_which_inputs_come_as_numpy_is_the_kernels_word(name: str, host: tuple[str, ...]) -> None:
    """Whatever they are given as: numpy arrays, numbers of numpy or native ones. All else is native."""
    seen: list[Any] = []
    backend = registry().backend(name)

    def embedding(ids: Any, weight: Any) -> Any:
        seen.append((ids, weight))
        return weight

    kernel = Kernel(name, "embedding", "own", lambda: embedding, priority=99, host=host)
    op = make_ops(with_kernels(kernel))["embedding"]
    native = type(backend.from_numpy(np.ones(1, np.float32)))
    ids, table = np.array([1, 0], np.int32), np.eye(2, dtype=np.float32)
    for some in (ids, np.int32(1), backend.from_numpy(ids)):
        op(some, backend.from_numpy(table), backend=name)
        op(some, table, backend=name)
    for got, weight in seen:
        assert type(got) is (np.ndarray if host else native) and type(weight) is native
        assert backend.to_numpy(backend.from_numpy(np.asarray(got)) if host else got).tolist() in ([1, 0], 1)
    assert len(seen) == 6


def test_an_optional_input_on_the_host() -> None:
    """Given by keyword; left out it stays left out."""
    seen: list[Any] = []

    def rope(x: Any, *, offset: Any = None) -> Any:
        seen.append(offset)
        return x

    op = make_ops(red(Kernel("red", "rope", "own", lambda: rope, host=("offset",))))["rope"]
    x = np.ones((2, 3, 4), np.float32)
    for offset in (3, np.array([3, 4]), RedBox(np.array([3, 4])), None):
        op(x, offset=offset, backend="red")
    assert [o if o is None else (type(o), o.tolist()) for o in seen] == [
        (np.ndarray, 3),
        (np.ndarray, [3, 4]),
        (np.ndarray, [3, 4]),
        None,
    ]


def linear_kernel(seen: list[Any], **more: Any) -> Kernel:
    """A kernel of `red` that puts down its weight and gives zeros."""

    def linear(x: Any, weight: Any, *, bias: Any = None) -> Any:
        seen.append(weight)
        return RedBox(np.zeros((2, 4), x.dtype))

    return Kernel("red", "linear", "own", lambda: linear, **more)


@pytest.mark.parametrize(
    ("schemes", "kind"),
    [(("q4_0",), SCHEMES["q4_0"]), (("affine",), SCHEMES["q4_0"].affine), (("dense",), None)],
    ids=["as it is", "affine", "expanded"],
)
def test_prepare_gets_the_weight_in_its_form_and_the_call(schemes: tuple[str, ...], kind: Any) -> None:
    """Of native arrays, and of the type that the call says."""
    seen: list[Any] = []
    prepared: list[tuple[Any, Call]] = []

    def prepare(weight: Any, call: Call) -> Any:
        prepared.append((weight, call))
        return "packed"

    op = make_ops(red(linear_kernel(seen, schemes=schemes, prepare=prepare)))["linear"]
    op(X, WEIGHT, backend="red")
    ((weight, call),) = prepared
    assert seen == ["packed"]
    assert (call.op, call.weights_packed, call.shape("x")) == ("linear", False, (2, 64))
    boxes = weight.arrays.values() if kind else [weight]
    assert all(type(box) is RedBox for box in boxes)
    plain = weight.with_arrays({n: box.array for n, box in weight.arrays.items()}) if kind else weight.array
    np.testing.assert_array_equal(dense(np, plain, np.float32), dense(np, WEIGHT, np.float32))
    assert call.inputs["weight"] == (weight.type if kind else ArrayType((4, 64), "float32"))
    assert not kind or weight.scheme == kind


def test_a_dense_weight_is_packed_too_and_at_every_call() -> None:
    """Outside of a program nothing is kept."""
    seen: list[Any] = []
    kernel = linear_kernel(seen, prepare=lambda weight, call: ("packed", weight, call.weights_packed))
    op = make_ops(red(kernel))["linear"]
    matrix = np.eye(4, 64, dtype=np.float32)
    for weight in (matrix, RedBox(matrix)) * 2:
        op(X, weight, backend="red")
    assert [(word, type(box), packed) for word, box, packed in seen] == [("packed", RedBox, False)] * 4


def test_only_the_inputs_that_it_names_are_packed() -> None:
    seen: list[Any] = []
    kernel = linear_kernel(seen, prepares=("bias",), prepare=lambda weight, call: 1 / 0)
    op = make_ops(red(kernel))["linear"]
    op(X, np.eye(4, 64, dtype=np.float32), backend="red")
    assert type(seen[0]) is RedBox
    with pytest.raises(ZeroDivisionError):
        op(X, np.eye(4, 64, dtype=np.float32), bias=np.ones(4, np.float32), backend="red")


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("arrays", ["native", "host"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_an_expanded_weight_is_exact_where_it_is_packed(dtype: str, arrays: str, name: str) -> None:
    """`prepare` gets float32 for 16-bit numbers, so that it rounds once or not at all; a kernel without one gets the
    dtype of x."""
    backend = registry().backend(name)
    if dtype not in backend.dtypes:
        pytest.skip(f"{name} has no {dtype}")
    weights: list[Any] = []

    def linear(x: Any, weight: Any, *, bias: Any = None) -> Any:
        weights.append(weight)
        return x[..., :4]

    def kernel(**more: Any) -> Op:
        added = Kernel(name, "linear", "added", lambda: linear, arrays=arrays, priority=99, **more)
        return make_ops(with_kernels(added))["linear"]

    def numbers(weight: Any) -> np.ndarray:
        return weight if arrays == "host" else backend.to_numpy(weight)

    x = X.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    kernel()(x, WEIGHT, backend=name)
    kernel(prepare=lambda weight, call: weight)(x, WEIGHT, backend=name)
    plain, packed = map(numbers, weights)
    wide = "float64" if dtype == "float64" else "float32"
    assert (str(plain.dtype), str(packed.dtype)) == (dtype, wide)
    exact = dense(np, WEIGHT, np.dtype(wide))
    np.testing.assert_allclose(packed, exact, rtol=2**-23)
    np.testing.assert_array_equal(plain, packed.astype(plain.dtype))


def test_the_backends_context_is_open_while_it_packs_and_runs() -> None:
    """And closed again, also after an error."""
    opened = 0

    @contextmanager
    def context() -> Iterator[None]:
        nonlocal opened
        opened += 1
        try:
            yield
        finally:
            opened -= 1

    class Contextual(BoxBackend):
        def __init__(self) -> None:
            super().__init__("red", RedBox)
            self.call_context = context

    seen: list[int] = []

    def prepare(weight: Any, call: Call) -> Any:
        seen.append(opened)
        return weight

    def linear(x: Any, weight: Any, *, bias: Any = None) -> Any:
        seen.append(opened)
        if bias is not None:
            raise ZeroDivisionError
        return x

    plugin = replace(backend_plugin("red"), load=lambda device: Contextual())
    kernel = Kernel("red", "linear", "own", lambda: linear, prepare=prepare)
    op = make_ops(plugged(module("red", backends=[plugin], kernels=[kernel])))["linear"]
    matrix = np.eye(64, dtype=np.float32)
    for x in (X, RedBox(X)):
        op(x, matrix, backend="red")
    with pytest.raises(ZeroDivisionError):
        op(X, matrix, bias=np.ones(64, np.float32), backend="red")
    assert seen == [1] * 6 and opened == 0
