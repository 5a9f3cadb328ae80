"""Packed weights: made in programs only, and held once."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tinyllm_torch import packing, quantized  # noqa: E402
from tinyllm_torch.backend import TorchBackend  # noqa: E402
from tinyllm_torch.linear import linear, prepare, prepare_float16, row_step  # noqa: E402

from tinyllm.catalogue.quantize.packing import dequantized, pack, unpack  # noqa: E402
from tinyllm.errors import UnsupportedError  # noqa: E402
from tinyllm.registry.registry import Registry  # noqa: E402
from tinyllm.spec.cases import quantized as random_weight  # noqa: E402
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


def test_expanding_leaves_the_weight_as_it_was() -> None:
    weight = random_weight(4, 64, bits=8, scheme="int8").make(np.random.default_rng(0))
    native = weight.with_arrays({n: BACKEND.from_numpy(a) for n, a in weight.arrays.items()})
    before = native.arrays["q"].clone()
    wide = weight.with_arrays({n: a.astype(np.float32) if n == "scales" else a for n, a in weight.arrays.items()})
    np.testing.assert_allclose(quantized.expand(native).numpy(), dequantized(np, wide), rtol=1e-6)
    assert torch.equal(native.arrays["q"], before)


def _linear(bound: bool, dtype: str = "float32") -> Call:
    inputs = {"x": ArrayType(("T", 8), dtype), "weight": ArrayType((4, 8), dtype), "bias": None}
    return Call("linear", inputs, {}, device="cpu", bound=bound)


def test_only_programs_pack() -> None:
    registry = Registry()
    assert registry.choose(_linear(False), BACKEND, fast=True).id == "torch/linear:plain"
    assert registry.choose(_linear(True, "bfloat16"), BACKEND, fast=True).id == "torch/linear:plain"
    exact = registry.choose(_linear(True), BACKEND, fast=False)
    assert exact.kernel is not None and exact.kernel.exact


def test_a_tied_weight_is_held_once() -> None:
    """The embedding cannot read a packed weight, so both use the plain one: the very same memory."""
    weight = torch.ones(4, 8)
    assert prepare(weight, ("embedding.weight", "linear.weight")).data_ptr() == weight.data_ptr()


def test_float16_refuses_what_it_cannot_hold() -> None:
    if torch.backends.quantized.engine not in ("x86", "fbgemm"):
        pytest.skip("no fbgemm")
    with pytest.raises(UnsupportedError, match="beyond float16"):
        prepare_float16(torch.full((2, 2), 1e5), ("linear.weight",))


def test_products_come_in_few_sizes() -> None:
    """oneDNN keeps what it compiled for each number of rows: few numbers, none much larger, and the same results."""
    sizes = {rows + -rows % row_step(rows) for rows in range(1, 513)}
    assert len(sizes) < 60 and all(-rows % row_step(rows) <= rows / 8 for rows in range(513))
    x, weight, bias = torch.randn(3, 15, 24), torch.randn(8, 24), torch.randn(8)
    packed = prepare(weight, ("linear.weight",))
    for shape in ((3, 15), (45,), (3, 5, 3)):
        y = linear(x.reshape(*shape, 24), packed, bias=bias)
        torch.testing.assert_close(y, (x @ weight.T + bias).reshape(*shape, 8))
    assert linear(x[:0], packed).shape == (0, 15, 8)
