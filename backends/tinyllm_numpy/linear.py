"""linear and embedding, on one packed form of a weight, so that a tied one is kept once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyllm_numpy.widen import widen


@dataclass(frozen=True)
class FloatWeight:
    """A weight ready for BLAS, and the dtype it came in."""

    rows: np.ndarray
    dtype: np.dtype


def prepare(weight: np.ndarray, uses: tuple[str, ...]) -> FloatWeight:
    """16-bit weights are widened once, and not at every product."""
    return FloatWeight(widen(weight), weight.dtype)


def matmul_rows(x: np.ndarray, rows: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """`x rows^T + bias` by one product for all leading axes, in the dtype of x."""
    wide = widen(x)
    y: np.ndarray = wide.reshape(-1, wide.shape[-1]) @ rows.T if wide.ndim != 2 and wide.size else wide @ rows.T
    if bias is not None:
        y += widen(bias)
    return y.reshape(*x.shape[:-1], rows.shape[0]).astype(x.dtype, copy=False)


def linear(x: np.ndarray, weight: FloatWeight, *, bias: np.ndarray | None = None) -> np.ndarray:
    return matmul_rows(x, weight.rows, bias)


def embedding(ids: np.ndarray, weight: FloatWeight) -> np.ndarray:
    rows: np.ndarray = weight.rows[ids]
    return rows.astype(weight.dtype, copy=False)
