"""One call of an op: whose arrays, whose backend, and a cache that never mistakes one call for another."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tests.registry.fakes import BlueBox, RedBox, backend_plugin, colour, module, registry
from tinyllm.errors import InvalidInputError, TinyllmError, UnknownNameError, UnsupportedError
from tinyllm.ops import Op, make_ops
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry import call as dispatch
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.choice import Choice
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import use_backend

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def asked() -> Registry:
    return registry(colour("red"), colour("blue"))


@pytest.fixture
def ops(asked: Registry) -> dict[str, Op]:
    return make_ops(asked)


def _softmax(x: np.ndarray, axis: int) -> Any:
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def test_numpy_in_numpy_out_on_any_backend(ops: dict[str, Op]) -> None:
    for backend in ("numpy", "red", "blue"):
        y = ops["softmax"](X, backend=backend)
        assert isinstance(y, np.ndarray)
        np.testing.assert_allclose(y, _softmax(X, -1), rtol=1e-6)


def test_native_arrays_outrank_the_settings(ops: dict[str, Op]) -> None:
    """They run where they live, whatever was selected for numpy ones."""
    with use_backend("blue"):
        assert type(ops["softmax"](RedBox(X))) is RedBox
        assert type(ops["softmax"](BlueBox(X))) is BlueBox


def test_native_arrays_against_the_argument(ops: dict[str, Op]) -> None:
    with pytest.raises(InvalidInputError, match="softmax: backend 'blue' was asked for, but x is an array of red"):
        ops["softmax"](RedBox(X), backend="blue")
    assert type(ops["softmax"](RedBox(X), backend="red")) is RedBox


@pytest.mark.parametrize("wrong", [5, 0, "", "red:", "nope"])
def test_a_backend_that_is_none(ops: dict[str, Op], wrong: Any) -> None:
    """Refused alike for numpy arrays and native ones."""
    for x in (X, RedBox(X)):
        with pytest.raises(TinyllmError, match=f"argument: .*backend {wrong!r}"):
            ops["softmax"](x, backend=wrong)


def test_a_selection_is_checked_beside_native_arrays_too(ops: dict[str, Op]) -> None:
    """They outrank it, but a wrong name is told and not passed over."""
    with (
        use_backend("linear=nope,*=blue"),
        pytest.raises(UnknownNameError, match="use_backend: unknown backend 'nope'"),
    ):
        ops["softmax"](RedBox(X))


def test_arrays_of_two_libraries(ops: dict[str, Op]) -> None:
    q = np.ones((3, 4), np.float32)
    with pytest.raises(InvalidInputError, match="sdpa: arrays of two libraries: k is of red, v of blue"):
        ops["sdpa"](RedBox(q), RedBox(q), BlueBox(q))


def test_a_numpy_mask_beside_native_arrays_is_carried(ops: dict[str, Op]) -> None:
    """The kernel asserts that the mask came as a box."""
    q = np.ones((3, 4), np.float32)
    y = ops["sdpa"](RedBox(q), RedBox(q), RedBox(q), mask=np.eye(3, dtype=bool))
    assert type(y) is RedBox


def test_what_is_no_array(ops: dict[str, Op]) -> None:
    for wrong in ([1.0, 2.0], 3.0, "x", object()):
        with pytest.raises(InvalidInputError, match="softmax: x: expected a numpy array or an array of a backend, got"):
            ops["softmax"](wrong)


def test_float64_is_computed_in_float64_or_refused(ops: dict[str, Op]) -> None:
    x = np.array([0.0, 1e-12, 2e-12])
    y = ops["softmax"](x, backend="numpy")
    assert y.dtype == np.float64 and y[0] < y[1] < y[2]
    ops["softmax"](x.astype(np.float32), backend="red")  # a known form but for the dtype
    with pytest.raises(UnsupportedError, match="red:cpu has no float64"):
        ops["softmax"](x, backend="red")


def test_cached_calls_differ_by_all_that_matters(ops: dict[str, Op]) -> None:
    """Shape, dtype, attribute, library and selection in turn, each asked twice and in both orders."""
    calls: list[tuple[Any, int, str | None]] = [
        (X, -1, None),
        (X, 0, None),
        (X.T, 0, None),
        (X[:, :2], -1, None),
        (X.astype(np.float16), -1, None),
        (X.astype(np.float64), -1, None),
        (X, -1, "red"),
        (X, -1, "blue"),
    ]
    for x, axis, backend in calls + calls[::-1]:
        y = ops["softmax"](x, axis=axis, backend=backend)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        np.testing.assert_allclose(
            y, _softmax(x.astype(np.float64), axis), rtol=2e-3 if x.dtype == np.float16 else 1e-6
        )


def test_cached_selection(ops: dict[str, Op], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call inside and outside of `use_backend` has one form and two backends."""
    ran: list[str] = []
    registry_ = ops["softmax"]._dispatch.registry
    bind = registry_.bind

    def recording(choice: Choice) -> BoundKernel:
        bound = bind(choice)
        inner = bound.function

        def told(*args: Any, **kwargs: Any) -> Any:
            ran.append(choice.backend.name)
            return inner(*args, **kwargs)

        bound.function = told
        return bound

    monkeypatch.setattr(registry_, "bind", recording)
    for _ in range(2):
        ops["softmax"](X)
        with use_backend("red"):
            ops["softmax"](X)
        with use_backend("softmax=blue,*=red"):
            ops["softmax"](X)
    assert ran == ["numpy", "red", "blue"] * 2


@pytest.mark.parametrize("wrong", [1.0, True, np.float64(1.0), "1", None])
def test_equal_is_not_the_same(ops: dict[str, Op], wrong: Any) -> None:
    """1 is a known form; 1.0 and True are equal to it and are still refused."""
    ops["softmax"](X, axis=1)
    with pytest.raises(InvalidInputError, match="softmax: axis: expected an integer"):
        ops["softmax"](X, axis=wrong)
    ops["softmax"](X, axis=1)


def test_equal_is_not_the_same_inside_a_tuple(ops: dict[str, Op]) -> None:
    ops["split"](X, sizes=(1, 2))
    with pytest.raises(InvalidInputError, match="split: sizes"):
        ops["split"](X, sizes=(1.0, 2))
    with pytest.raises(InvalidInputError, match="split: sizes"):
        ops["split"](X, sizes=(True, 2))


def test_numpy_numbers_are_taken_as_attributes(ops: dict[str, Op]) -> None:
    q = np.ones((3, 4), np.float32)
    ops["sdpa"](q, q, q, scale=0.5)
    np.testing.assert_array_equal(ops["sdpa"](q, q, q, scale=np.float64(0.5)), ops["sdpa"](q, q, q, scale=0.5))
    with pytest.raises(InvalidInputError, match="sdpa: scale: expected"):
        ops["sdpa"](q, q, q, scale=np.float64("nan"))


def test_values_are_checked_at_each_call(ops: dict[str, Op]) -> None:
    """A known form says nothing about the numbers in it."""
    table = np.eye(3, dtype=np.float32)
    ops["embedding"](np.array([0, 2]), table)
    with pytest.raises(InvalidInputError, match="embedding: ids"):
        ops["embedding"](np.array([0, 3]), table)


def test_a_kernel_is_chosen_for_each_shape() -> None:
    ran: list[str] = []

    def kernel(name: str, widths: range) -> Kernel:
        def softmax(x: Any, *, axis: int = -1) -> Any:
            ran.append(name)
            return x

        return Kernel(
            "red", "softmax", name, lambda: softmax, lambda call: call.shape("x")[-1] in widths or "another width"
        )

    op = make_ops(
        registry(
            module(
                "red",
                backends=[backend_plugin("red")],
                kernels=[kernel("short", range(4)), kernel("long", range(4, 9))],
            )
        )
    )
    for width in (3, 4, 3, 5, 2):
        op["softmax"](RedBox(np.ones((1, width), np.float32)))
    assert ran == ["short", "long", "short", "long", "short"]


def test_known_forms_are_bounded(ops: dict[str, Op], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MOST_PLANS", 5)
    for n in range(1, 40):
        ops["softmax"](np.ones(n, np.float32))
        assert len(ops["softmax"]._dispatch._plans) <= 5


def test_wrong_calls_are_not_remembered(ops: dict[str, Op]) -> None:
    for _ in range(2):
        with pytest.raises(TinyllmError):
            ops["softmax"](X, axis=5)
    assert not ops["softmax"]._dispatch._plans


def test_positional_inputs_by_name_in_any_order(ops: dict[str, Op]) -> None:
    rng = np.random.default_rng(1)
    x, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3), (4, 3), (4,)))
    expected = ops["linear"](x, weight, bias=bias)
    np.testing.assert_array_equal(ops["linear"](bias=bias, weight=weight, x=x), expected)
    np.testing.assert_array_equal(ops["linear"](x, bias=bias, weight=weight), expected)


def test_the_callers_arguments_stay_as_they_were(ops: dict[str, Op]) -> None:
    keywords = {"offset": 3, "dims": 2}
    ops["rope"](np.ones((2, 4), np.float32), **keywords)
    assert keywords == {"offset": 3, "dims": 2}


def test_threads_do_not_see_one_anothers_backend(asked: Registry) -> None:
    """Many threads at once, each with a backend of its own, on one op."""
    op = make_ops(asked)["softmax"]
    boxes = {"red": RedBox, "blue": BlueBox}
    wrong: list[str] = []

    def work(name: str) -> None:
        with use_backend(name):
            for n in range(1, 200):
                y = op(boxes[name](np.ones((1, n % 7 + 1), np.float32)))
                if type(y) is not boxes[name] or asked.select().default != name:
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("red", "blue") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
