"""What the op cases do not show of the mlx backend: crossing from and to numpy, memory that is shared or written in
place."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from tinyllm_mlx import mkl

mkl.preload()  # before mlx.core, or all tests of this process run on MLX's own slow and less exact product
mx = pytest.importorskip("mlx.core")

from tinyllm_mlx import linear, quantized  # noqa: E402
from tinyllm_mlx.arrays import begin, exp  # noqa: E402
from tinyllm_mlx.backend import MlxBackend  # noqa: E402
from tinyllm_mlx.paged_attention import kv_append, paged_attention  # noqa: E402

from tinyllm import Affine, Int8, QuantWeight  # noqa: E402
from tinyllm.errors import UnsupportedError  # noqa: E402
from tinyllm.spec.scheme import Scheme  # noqa: E402
from tinyllm.spec.types import ArrayType, Call  # noqa: E402


@pytest.fixture
def backend() -> MlxBackend:
    return MlxBackend("cpu")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int32, np.int8, np.uint32, bool])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_numpy_round_trip(backend: MlxBackend, dtype: type, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2).astype(dtype)
    native = backend.from_numpy(array)
    back = backend.to_numpy(native)
    assert backend.dtype_name(native) == str(array.dtype) == str(back.dtype)
    assert back.shape == shape and not back.flags.writeable
    np.testing.assert_array_equal(back, array)


def test_float64_is_refused(backend: MlxBackend) -> None:
    with pytest.raises(UnsupportedError, match="float64"):
        backend.from_numpy(np.ones(3))


def test_probe_imports_no_array_library() -> None:
    code = (
        "import sys, tinyllm_mlx as t; t.tinyllm_backends()[0].probe(); t.tinyllm_kernels(); "
        "sys.exit('mlx.core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_exp_is_exact_to_an_ulp(backend: MlxBackend) -> None:
    x = np.linspace(-80, 80, 10001).astype(np.float32)
    wanted = np.exp(x.astype(np.float64))
    assert np.max(np.abs(backend.to_numpy(exp(mx.array(x))) - wanted) / wanted) < 2**-23
    assert backend.to_numpy(exp(mx.array([-mx.inf, 0.0, mx.inf]))).tolist() == [0, 1, np.inf]


def test_append_writes_in_place(backend: MlxBackend) -> None:
    """A copy of the pool would show as twice its memory."""
    pages, new = backend.zeros((64, 4, 256, 64), "float32"), mx.ones((1, 4, 64))
    values = backend.zeros((64, 4, 256, 64), "float32")
    mx.eval(new)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for slot in range(5):
        pages, values = kv_append(pages, values, new, new, np.array([slot]))
        mx.eval(pages, values)
    assert mx.get_peak_memory() - before < pages.nbytes / 2


@pytest.mark.skipif(mkl.find() is None, reason="without MKL")
def test_a_step_gives_cores_back(backend: MlxBackend) -> None:
    """Also when it fails; and outside a step nothing is set."""
    threads = mkl.threads()
    begin(mx.ones(1))
    assert mkl.threads() == threads
    with pytest.raises(ZeroDivisionError), backend.step_context():
        begin(mx.ones(1))
        assert mkl.threads() == str(max(1, int(threads) - 1))
        raise ZeroDivisionError
    assert mkl.threads() == threads


def test_steps_that_begin_early_write_in_place(backend: MlxBackend) -> None:
    """`begin` in attention leaves the pool to the next step alone."""
    pages, values = (backend.zeros((64, 4, 256, 64), "float32") for _ in range(2))
    new, starts, table = mx.ones((1, 4, 64)), np.array([0, 1]), np.array([[0]])
    mx.eval(new)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for slot in range(5):
        with backend.step_context():
            pages, values = kv_append(pages, values, new * (slot + 1), new * slot, np.array([slot]))
            y = paged_attention(mx.zeros((1, 4, 64)), pages, values, starts, np.array([slot + 1]), table)
            backend.synchronize(pages, values, y)
        np.testing.assert_allclose(backend.to_numpy(y), slot / 2)
    assert mx.get_peak_memory() - before < pages.nbytes / 2


def _weight(rows: int, columns: int, scheme: Scheme) -> QuantWeight:
    return quantized.quantize(mx.random.normal((rows, columns), key=mx.random.key(0)), scheme=scheme)


def _call(op: str, weight: QuantWeight | mx.array, shared: bool = False) -> Call:
    """As a program makes it."""
    kind = (
        weight.type
        if isinstance(weight, QuantWeight)
        else ArrayType(weight.shape, str(weight.dtype).removeprefix("mlx.core."))
    )
    return Call(op, {"weight": kind}, {}, weights_packed=True, shared=shared)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_packing_is_that_of_mlx(bits: int) -> None:
    weight = _weight(5, 64, Affine(bits, 32))
    a = weight.arrays
    wanted = mx.dequantize(a["q"], a["scales"], a["biases"], group_size=32, bits=bits)
    assert mx.allclose(quantized.dequantize(weight), wanted, rtol=1e-6, atol=1e-6)
    values = (mx.arange(96, dtype=mx.uint32) * 7 % 2**bits).reshape(1, 96)
    assert mx.array_equal(quantized.unpack_bits(quantized.pack_bits(values, bits), bits, 96), values)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(96, 32), (32, 96)])
def test_tied_weights_share_one_packed_form(shape: tuple[int, int], dtype: mx.Dtype) -> None:
    """Whichever op packs it: what the product reads best, from which the rows come bit by bit."""
    ids, x = mx.array([[3, 0], [31, 3]]), mx.ones((2, shape[1]), dtype=dtype)
    table = mx.random.normal(shape, key=mx.random.key(0)).astype(dtype)
    for op in ("linear", "embedding"):
        packed = linear.prepare(table, _call(op, table, shared=True))
        assert packed.transposed == (shape[0] > shape[1]) and packed.array.dtype == mx.float32
        rows = linear.embedding(ids, packed)
        assert rows.dtype == dtype and mx.array_equal(rows, table[ids])
        product = x.astype(mx.float32) @ table.astype(mx.float32).T
        y = linear.linear(x, packed)
        assert y.dtype == dtype and mx.allclose(y, product.astype(dtype), rtol=1e-5, atol=1e-5)


def test_a_table_alone_stays_as_it_is() -> None:
    """Quantized, and so do the rows asked for; or dense, for nothing multiplies with it."""
    ids = mx.array([[3, 0], [7, 3]])
    for scheme in (Affine(4, 32), Int8(32)):
        weight = _weight(8, 32, scheme)
        assert linear.prepare(weight, _call("embedding", weight)) is weight
        assert mx.array_equal(linear.embedding(ids, weight), quantized.dequantize(weight)[ids])
    table = mx.random.normal((96, 32), key=mx.random.key(0)).astype(mx.bfloat16)
    packed = linear.prepare(table, _call("embedding", table))
    assert not packed.transposed and packed.array.dtype == mx.bfloat16


@pytest.mark.parametrize("scheme", [Affine(4, 32), Affine(8, 64), Int8(32)], ids=str)
def test_a_quantized_table_has_one_form_for_mlxs_own_product(scheme: Scheme) -> None:
    """`linear` and `embedding` read it; of int8 it is the affine form of the very same numbers."""
    weight = _weight(64, 64, scheme)
    packed = quantized.prepare_fast(weight, _call("linear", weight))
    assert isinstance(packed.scheme, Affine) and (packed is weight) == isinstance(scheme, Affine)
    plain, ids = quantized.dequantize(weight), mx.array([[3, 0], [31, 3]])
    assert mx.allclose(quantized.embedding_fast(ids, packed), plain[ids], rtol=1e-5, atol=1e-5)
    x = mx.random.normal((2, 64), key=mx.random.key(1))
    assert mx.allclose(quantized.linear_fast(x, packed), x @ plain.T, rtol=1e-4, atol=1e-4)
