"""linear and embedding, which may share one weight."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from tinyllm.plugins import Call, QuantWeight
from tinyllm_mlx.arrays import for_product, on_cpu, widen
from tinyllm_mlx.quantized import dequantize


@dataclass(frozen=True)
class Matrix:
    """A weight `[N, K]` packed at bind. `transposed`: `array` is `[K, N]`. `dtype`: what the weight was."""

    array: mx.array
    transposed: bool
    dtype: mx.Dtype


def pack(weight: mx.array, dtype: mx.Dtype) -> Matrix:
    """A weight for products on the CPU: float32, and stored along its longer axis, which a product with one row reads
    up to 1.8 times faster."""
    wide = widen(weight)
    transposed = weight.shape[0] > weight.shape[1]
    array = mx.contiguous(wide.T) if transposed else wide
    mx.eval(array)  # now, so that the source can be freed before the next weight comes
    return Matrix(array, transposed, dtype)


def prepare(weight: mx.array | QuantWeight, call: Call) -> Matrix | QuantWeight:
    """One packed form for `linear` and for an `embedding` that shares its weight; a table alone is best left as it
    is."""
    if isinstance(weight, QuantWeight):
        return weight
    dtype = getattr(mx, call.dtype("weight"))
    if on_cpu() and call.weights_packed and (call.op == "linear" or call.shared):
        return pack(weight, dtype)
    return Matrix(weight.astype(dtype), False, dtype)


def linear(x: mx.array, weight: Matrix, *, bias: mx.array | None = None) -> mx.array:
    """`x weight^T + bias`, `[*B, N]`, rounded once to the dtype of x."""
    right = weight.array if weight.transposed else weight.array.T
    if bias is not None and x.shape[-1] == 0:  # `addmm` refuses it where x has more than 2 axes
        return mx.broadcast_to(bias, (*x.shape[:-1], right.shape[-1])).astype(x.dtype)
    if x.dtype != mx.float32 or right.dtype != mx.float32:
        left, right = for_product(x), for_product(right)
        y = left @ right if bias is None else mx.addmm(for_product(bias), left, right)
        return y.astype(x.dtype)
    return x @ right if bias is None else mx.addmm(bias, x, right)


def embedding(ids: mx.array, weight: Matrix | QuantWeight) -> mx.array:
    """The rows `[*B, D]` that `ids` name: columns of a transposed form; of a quantized table only those are
    expanded."""
    if isinstance(weight, QuantWeight):
        return dequantize(weight.rows(lambda array: mx.take(array, ids, axis=0), ids.shape))
    if weight.transposed:
        rows = mx.contiguous(mx.moveaxis(mx.take(weight.array, ids, axis=1), 0, -1))
    else:
        rows = mx.take(weight.array, ids, axis=0)
    return rows.astype(weight.dtype)
