"""linear and embedding, which may share one weight."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from tinyllm_mlx.arrays import for_product, on_cpu, widen


@dataclass(frozen=True)
class Matrix:
    """A weight `[N, K]` packed at bind. `transposed`: `array` is `[K, N]`. `dtype`: what the weight was."""

    array: mx.array
    transposed: bool
    dtype: mx.Dtype


def pack(weight: mx.array, dtype: mx.Dtype | None = None) -> Matrix:
    """A weight for products on the CPU: float32, and stored along its longer axis, which a product with one row reads
    up to 1.8 times faster."""
    wide = widen(weight)
    transposed = weight.shape[0] > weight.shape[1]
    array = mx.contiguous(wide.T) if transposed else wide
    mx.eval(array)  # now, so that the source can be freed before the next weight comes
    return Matrix(array, transposed, dtype or weight.dtype)


def prepare(weight: mx.array, uses: tuple[str, ...]) -> Matrix:
    """One packed form for `linear` and for an `embedding` that shares its weight; rows alone are best left as they
    are."""
    if "linear.weight" in uses and on_cpu():
        return pack(weight)
    return Matrix(weight, False, weight.dtype)


def product(x: mx.array, weight: mx.array | Matrix, bias: mx.array | None) -> mx.array:
    """x W^T + b, rounded once to x's dtype."""
    if isinstance(weight, Matrix):
        array, transposed = weight.array, weight.transposed
    else:
        array, transposed = weight, False
    right = array if transposed else array.T
    if bias is not None and x.shape[-1] == 0:  # `addmm` refuses it where x has more than 2 axes
        return mx.broadcast_to(bias, (*x.shape[:-1], right.shape[-1])).astype(x.dtype)
    if x.dtype != mx.float32 or right.dtype != mx.float32:
        left, right = for_product(x), for_product(right)
        y = left @ right if bias is None else mx.addmm(for_product(bias), left, right)
        return y.astype(x.dtype)
    return x @ right if bias is None else mx.addmm(bias, x, right)


def linear(x: mx.array, weight: mx.array, *, bias: mx.array | None = None) -> mx.array:
    """A matrix product."""
    return product(x, weight, bias)


def rows(ids: mx.array, weight: mx.array | Matrix) -> mx.array:
    """Rows of a weight, columns of its transposed form."""
    if not isinstance(weight, Matrix):
        return mx.take(weight, ids, axis=0)
    if weight.transposed:
        return mx.contiguous(mx.moveaxis(mx.take(weight.array, ids, axis=1), 0, -1))
    return mx.take(weight.array, ids, axis=0)


def embedding(ids: mx.array, weight: mx.array) -> mx.array:
    """Rows of a table."""
    return rows(ids, weight).astype(weight.dtype)
