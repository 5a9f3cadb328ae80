"""Quantized weights from shifts and masks.

On the CPU, where MLX's own quantized product reads 0.4 GB/s, a weight that stays is dequantized once, to a float32
`Matrix` that the head and the embedding share; what it costs in memory it gives back in speed, 20 times and more.
"""

from __future__ import annotations

import mlx.core as mx

from tinyllm.errors import UnsupportedError
from tinyllm.plugins import QuantWeight
from tinyllm.spec.quantized import SCHEMES, WORD
from tinyllm_mlx import linear
from tinyllm_mlx.arrays import for_product, on_cpu, widen
from tinyllm_mlx.linear import Matrix


def pack_bits(values: mx.array, bits: int) -> mx.array:
    """Integers `[..., K]` as one little-endian bit stream per row: uint32 `[..., K * bits / 32]`."""
    if values.size == 0:
        return mx.zeros((*values.shape[:-1], values.shape[-1] * bits // WORD), dtype=mx.uint32)
    values = values.astype(mx.uint32)
    if WORD % bits == 0:
        chunks = values.reshape(*values.shape[:-1], -1, WORD // bits) << mx.arange(0, WORD, bits, dtype=mx.uint32)
    else:
        stream = (values[..., None] >> mx.arange(bits, dtype=mx.uint32)) & 1
        chunks = stream.reshape(*values.shape[:-1], -1, WORD) << mx.arange(WORD, dtype=mx.uint32)
    return mx.sum(chunks, axis=-1)


def unpack_bits(words: mx.array, bits: int, count: int) -> mx.array:
    """The inverse: uint32 `[..., K]`."""
    shape = (*words.shape[:-1], count)
    if words.size == 0:
        return mx.zeros(shape, dtype=mx.uint32)
    if WORD % bits == 0:
        values: mx.array = (words[..., None] >> mx.arange(0, WORD, bits, dtype=mx.uint32)) & (2**bits - 1)
        return values.reshape(shape)
    stream = ((words[..., None] >> mx.arange(WORD, dtype=mx.uint32)) & 1).reshape(*shape, bits)
    return mx.sum(stream << mx.arange(bits, dtype=mx.uint32), axis=-1)


def quantize(w: mx.array, *, bits: int = 4, group_size: int = 64, scheme: str = "affine") -> QuantWeight:
    """Minimum and maximum of a group become the ends of the scale."""
    dtype = mx.float32 if w.dtype == mx.float32 else mx.float16
    groups = widen(w).reshape(*w.shape[:-1], w.shape[-1] // group_size, group_size)
    if w.size == 0:
        low = high = mx.zeros(groups.shape[:-1])
    elif scheme == "int8":
        low, high = mx.zeros(groups.shape[:-1]), mx.max(mx.abs(groups), axis=-1)
    else:
        low, high = mx.min(groups, axis=-1), mx.max(groups, axis=-1)
    scales = (high - low) / (127 if scheme == "int8" else 2**bits - 1)
    q = mx.round((groups - low[..., None]) / mx.where(scales > 0, scales, 1)[..., None]).reshape(w.shape)
    shape = tuple(w.shape)
    if scheme == "int8":
        return QuantWeight(
            "int8", {"q": mx.clip(q, -127, 127).astype(mx.int8), "scales": scales.astype(dtype)}, 8, group_size, shape
        )
    arrays = {
        "q": pack_bits(mx.clip(q, 0, 2**bits - 1), bits),
        "scales": scales.astype(dtype),
        "biases": low.astype(dtype),
    }
    return QuantWeight("affine", arrays, bits, group_size, shape)


def expand(weight: QuantWeight) -> mx.array:
    """`scale * q + bias` in float32, columns where the inputs are."""
    arrays, columns = weight.arrays, weight.shape[-1]
    if weight.scheme not in SCHEMES:
        raise UnsupportedError(
            f"mlx: the scheme {weight.scheme!r} of a quantized weight is not known (known: {', '.join(SCHEMES)})"
        )
    q: mx.array = arrays["q"] if weight.scheme == "int8" else unpack_bits(arrays["q"], weight.bits, columns)
    groups = (*q.shape[:-1], columns // weight.group_size, weight.group_size)
    values: mx.array = q.astype(mx.float32).reshape(groups) * arrays["scales"].astype(mx.float32)[..., None]
    if weight.scheme == "affine":
        values = values + arrays["biases"].astype(mx.float32)[..., None]
    values = values.reshape(q.shape)
    if "permutation" in arrays:
        values = mx.take(values, mx.argsort(arrays["permutation"]), axis=-1)
    return values


def prepare(weight: QuantWeight, uses: tuple[str, ...]) -> QuantWeight | Matrix:
    """Dequantized where products use it on the CPU; a table that only lends rows, and all on the GPU, stay as they
    are."""
    if "quantized_linear.weight" in uses and on_cpu():
        return linear.pack(expand(weight))
    return weight


def dequantize(weight: QuantWeight, *, dtype: str = "float32") -> mx.array:
    """The matrix a weight stands for."""
    return expand(weight).astype(getattr(mx, dtype))


def quantized_linear(x: mx.array, weight: QuantWeight | Matrix, *, bias: mx.array | None = None) -> mx.array:
    """A matrix product with the dequantized weight."""
    if isinstance(weight, QuantWeight):
        weight = Matrix(expand(weight).astype(mx.float32 if on_cpu() else x.dtype), False, x.dtype)
    return linear.product(x, weight, bias)


def quantized_embedding(ids: mx.array, weight: QuantWeight | Matrix, *, dtype: str = "float32") -> mx.array:
    """Rows, dequantized."""
    if isinstance(weight, Matrix):
        return linear.rows(ids, weight).astype(getattr(mx, dtype))
    return expand(weight.rows(lambda array: mx.take(array, ids, axis=0), ids.shape)).astype(getattr(mx, dtype))


def prepare_fast(weight: QuantWeight, uses: tuple[str, ...]) -> QuantWeight:
    """The layout is MLX's own already; int8 is laid out as 8-bit affine: s * q = s * (q + 128) - 128 * s, exact where s
    is float16."""
    if weight.scheme == "affine":
        return weight
    scales = weight.arrays["scales"].astype(mx.float32)  # float16 might not hold 128 * s
    q = (weight.arrays["q"].view(mx.uint8) ^ 128).view(mx.uint32)
    arrays = dict(weight.arrays) | {"q": q, "scales": scales, "biases": -128 * scales}
    mx.eval(arrays)
    return weight.with_arrays(arrays)


def quantized_linear_fast(x: mx.array, weight: QuantWeight, *, bias: mx.array | None = None) -> mx.array:
    """`mx.quantized_matmul`, on inputs in the order the columns are stored in; on the CPU it sums in the dtype of its
    input."""
    a = weight.arrays
    left = for_product(x if "permutation" not in a else mx.take(x, a["permutation"], axis=-1))
    y = mx.quantized_matmul(
        left, a["q"], a["scales"], a["biases"], transpose=True, group_size=weight.group_size, bits=weight.bits
    )
    return (y if bias is None else y + for_product(bias)).astype(x.dtype)


def quantized_embedding_fast(ids: mx.array, weight: QuantWeight, *, dtype: str = "float32") -> mx.array:
    """Rows of the form that `quantized_linear_fast` packs, so that a tied weight is held once."""
    rows = weight.rows(lambda array: mx.take(array, ids, axis=0), ids.shape)
    if weight.scheme == "int8":  # as it was: s * (q + 128) - 128 * s rounds where s is float32
        rows = rows.with_arrays(dict(rows.arrays) | {"q": (rows.arrays["q"].view(mx.uint8) ^ 128).view(mx.int8)})
    return expand(rows).astype(getattr(mx, dtype))
