"""Calls with quantized weights: whose scheme it is, and a cache that never mistakes one weight for another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.registry.fakes import colour, module, red, registry
from tinyllm import Affine, Int8, QuantWeight
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.ops import Op, make_ops
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import Kernel
from tinyllm.spec.scheme import Scheme


@pytest.fixture
def ops() -> dict[str, Op]:
    return make_ops(registry(colour("red")))


def test_quantized_weights_of_two_forms(ops: dict[str, Op]) -> None:
    """Scheme, its parameters and the dtype of the numbers are part of a call's form."""
    w = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    x = np.ones((1, 64), np.float32)
    for scheme in (Affine(4, 32), Affine(4, 64), Affine(8, 32), Int8(32)) * 2:
        weight = ops["quantize"](w, scheme=scheme)
        assert isinstance(weight, QuantWeight) and weight.scheme == scheme
        np.testing.assert_allclose(ops["linear"](x, weight), x @ ops["dequantize"](weight).T, rtol=1e-5, atol=1e-5)
        for dtype in ("float32", "float16", "float64"):
            assert ops["embedding"](np.array([1]), replace(weight, dtype=dtype)).dtype == dtype


def test_schemes_whose_arrays_look_alike() -> None:
    """A known form is that of one scheme, and of one dtype of its numbers."""
    ran: list[str] = []

    def kernel(scheme: str) -> Kernel:
        def linear(x: Any, weight: Any, *, bias: Any = None) -> Any:
            ran.append(f"{scheme} for {weight.scheme}")
            return x

        return Kernel("red", "linear", scheme, lambda: linear, schemes=(scheme,))

    ops = make_ops(red(kernel("q4_0"), kernel("iq4_nl")))
    x, ids, rng = np.ones((1, 64), np.float32), np.array([0]), np.random.default_rng(0)
    for scheme in ("q4_0", "iq4_nl") * 2:
        weight = SCHEMES[scheme].draw(rng, (4, 64))
        ops["linear"](x, weight, backend="red")
        ops["embedding"](ids, weight, backend="red")
        with pytest.raises(UnsupportedError, match="embedding: weight: backend red:cpu has no float16"):
            ops["embedding"](ids, replace(weight, dtype="float16"), backend="red")
    assert ran == ["q4_0 for q4_0", "iq4_nl for iq4_nl"] * 2


def test_dense_and_quantized_weights_in_turn(ops: dict[str, Op]) -> None:
    """One op takes both, and remembers each."""
    weight = ops["quantize"](np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32))
    x, matrix = np.ones((1, 64), np.float32), ops["dequantize"](weight)
    for _ in range(2):
        np.testing.assert_allclose(ops["linear"](x, weight), ops["linear"](x, matrix), rtol=1e-6)


def test_a_known_quantized_weight_says_nothing_of_another_shape(ops: dict[str, Op]) -> None:
    x = np.ones((1, 64), np.float32)
    for columns in (64, 32, 64):
        weight = ops["quantize"](np.ones((4, columns), np.float32), scheme=Affine(4, 32))
        if columns == 64:
            np.testing.assert_allclose(ops["linear"](x, weight), np.full((1, 4), 64.0), rtol=1e-6)
        else:
            with pytest.raises(InvalidInputError, match="linear: weight: expected shape"):
                ops["linear"](x, weight)


@dataclass(frozen=True)
class _Foreign(Int8):
    """A scheme that no plugin brought."""

    name: ClassVar[str] = "foreign"


class _Impostor(Int8):
    """Of the name of another."""


@pytest.mark.parametrize(("scheme", "name"), [(_Foreign(), "foreign"), (_Impostor(), "int8"), ("int8", "'int8'")])
def test_a_scheme_of_no_plugin(ops: dict[str, Op], scheme: Any, name: str) -> None:
    """In a weight and as an attribute; the error names those that are there, and the hook."""
    known = rf"a scheme that is registered \(affine, .*int8, .*; the hook is tinyllm_schemes\), got {name}$"
    weight = replace(ops["quantize"](np.ones((4, 64), np.float32), scheme=Int8()), scheme=scheme)
    x = np.ones((1, 64), np.float32)
    for op, call in {
        "dequantize": lambda: ops["dequantize"](weight),
        "linear": lambda: ops["linear"](x, weight),
        "embedding": lambda: ops["embedding"](np.array([0]), weight),
    }.items():
        with pytest.raises(InvalidInputError, match=f"^{op}: weight: scheme: expected {known}"):
            call()
    expected = known if isinstance(scheme, Scheme) else "a Scheme, got 'int8'$"
    with pytest.raises(InvalidInputError, match=f"^quantize: scheme: expected {expected}"):
        ops["quantize"](x, scheme=scheme)


def test_a_scheme_of_a_plugin() -> None:
    """It is taken like those of the core, and run by its formula where no kernel knows it."""
    ops = make_ops(registry(colour("red"), module("extra", tinyllm_schemes=hookimpl(lambda: [_Foreign()]))))
    weight = ops["quantize"](np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32), scheme=_Foreign(32))
    matrix = _Foreign(32).dequantize(np, weight, np.float32)
    np.testing.assert_array_equal(ops["dequantize"](weight), matrix)
    np.testing.assert_allclose(ops["linear"](matrix, weight), matrix @ matrix.T, rtol=1e-5)
    np.testing.assert_array_equal(ops["embedding"](np.array([3]), weight), matrix[[3]])
