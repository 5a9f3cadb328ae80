"""Packed weights: made in programs only, and held once."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tinyllm_torch import packing, quantized  # noqa: E402
from tinyllm_torch.backend import TorchBackend  # noqa: E402
from tinyllm_torch.linear import as_it_is, linear_packed, pack_float16, row_step  # noqa: E402
from tinyllm_torch.linear import pack as pack_matrix  # noqa: E402

from tests.catalogue.harness import registry  # noqa: E402
from tinyllm import Affine, Int8  # noqa: E402
from tinyllm.catalogue.schemes.bits import pack, unpack  # noqa: E402
from tinyllm.errors import UnsupportedError  # noqa: E402
from tinyllm.spec.quantized import dense  # noqa: E402
from tinyllm.spec.scheme import Scheme  # noqa: E402
from tinyllm.spec.types import ArrayType, Call  # noqa: E402

BACKEND = TorchBackend("cpu")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_bit_streams(bits: int, rows: int) -> None:
    """Bit by bit what the core's reference packs."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (rows, 96))
    words = packing.pack(torch.from_numpy(values), bits)
    assert np.array_equal(words.numpy(), pack(np, values, bits))
    assert np.array_equal(packing.unpack(words, bits).numpy(), unpack(np, pack(np, values, bits), bits, 96))


@pytest.mark.parametrize("scheme", [Int8(32), Affine(4, 32)], ids=str)
def test_expanding_leaves_the_weight_as_it_was(scheme: Scheme) -> None:
    weight = scheme.draw(np.random.default_rng(0), (4, 64))
    native = weight.with_arrays({name: BACKEND.from_numpy(array) for name, array in weight.arrays.items()})
    before = {name: array.clone() for name, array in native.arrays.items()}
    np.testing.assert_allclose(quantized.dequantize(native).numpy(), dense(np, weight, np.float32), rtol=1e-6)
    assert all(torch.equal(array, before[name]) for name, array in native.arrays.items())


def _linear(weights_packed: bool, dtype: str = "float32", shared: bool = False) -> Call:
    inputs = {"x": ArrayType(("T", 8), dtype), "weight": ArrayType((4, 8), dtype), "bias": None}
    return Call("linear", inputs, {}, device="cpu", weights_packed=weights_packed, shared=shared)


def test_only_programs_pack() -> None:
    def choose(call: Call, fast: bool) -> str:
        return registry().choose(call, BACKEND, fast=fast).id

    assert choose(_linear(False), fast=True) == "torch/linear:plain"
    assert choose(_linear(True, "bfloat16"), fast=True) == "torch/linear:plain"
    exact = registry().choose(_linear(True), BACKEND, fast=False)
    assert exact.kernel is not None and exact.kernel.exact


def test_a_tied_weight_is_held_once() -> None:
    """The embedding cannot read a packed weight, so both use the plain one: the very same memory."""
    assert registry().choose(_linear(True, shared=True), BACKEND, fast=False).id == "torch/linear:plain"
    weight = torch.ones(4, 8)
    assert as_it_is(weight, _linear(True, shared=True)).data_ptr() == weight.data_ptr()


def test_float16_refuses_what_it_cannot_hold() -> None:
    if torch.backends.quantized.engine not in ("x86", "fbgemm"):
        pytest.skip("no fbgemm")
    with pytest.raises(UnsupportedError, match="beyond float16"):
        pack_float16(torch.full((2, 2), 1e5), _linear(True))


def test_products_come_in_few_sizes() -> None:
    """oneDNN keeps what it compiled for each number of rows: few numbers, none much larger, and the same results."""
    sizes = {rows + -rows % row_step(rows) for rows in range(1, 513)}
    assert len(sizes) < 60 and all(-rows % row_step(rows) <= rows / 8 for rows in range(513))
    x, weight, bias = torch.randn(3, 15, 24), torch.randn(8, 24), torch.randn(8)
    packed = pack_matrix(weight, _linear(True))
    for shape in ((3, 15), (45,), (3, 5, 3)):
        y = linear_packed(x.reshape(*shape, 24), packed, bias=bias)
        torch.testing.assert_close(y, (x @ weight.T + bias).reshape(*shape, 8))
    assert linear_packed(x[:0], packed).shape == (0, 15, 8)
