"""What becomes of NaN, of infinity and of the largest numbers in ops on single elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from tests.conformance.zoo.mutant import Mutant, wide


def silu(x: Any, *, mistake: str | None = None) -> Any:
    values = wide(x)
    if mistake == "NaN taken for low":
        values = np.fmax(values, -1e4)
    if mistake == "clamped to 1e30":
        values = np.clip(values, -1e30, 1e30)
    if mistake == "NaN written as 0":
        y = np.nan_to_num(values / (1 + np.exp(-values)), nan=0, posinf=np.inf, neginf=-np.inf)
        return np.asarray(y).astype(x.dtype)
    small = np.exp(-np.abs(values))
    y = values * np.where(values < 0, small, 1) / (1 + small)
    return np.asarray(y).astype(x.dtype)


def gelu(x: Any, *, approximate: str = "none", mistake: str | None = None) -> Any:
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    if mistake == "by branches that NaN falls through":
        y = torch.where(values > 9, values, torch.zeros_like(values))
        inner = right_gelu(values, approximate)
        return torch.where(torch.abs(values) <= 9, inner, y).to(x.dtype)
    if mistake == "tanh of exponentials" and approximate == "tanh":
        power = torch.exp(2 * math.sqrt(2 / math.pi) * (values + 0.044715 * values * values * values))
        return (0.5 * values * (1 + (power - 1) / (power + 1))).to(x.dtype)
    return right_gelu(values, approximate).to(x.dtype)


def right_gelu(values: Any, approximate: str) -> Any:
    """By the formulas: torch's own function gives NaN for infinity."""
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (values + 0.044715 * values * values * values)
        return 0.5 * values * (1 + torch.tanh(inner))
    return 0.5 * values * torch.special.erfc(-values * math.sqrt(0.5))


def add(x: Any, y: Any, *, mistake: str | None = None) -> Any:
    with np.errstate(all="ignore"):
        z = x + y
        if mistake == "stays below infinity" and z.dtype.itemsize < 4:
            most = np.nextafter(np.asarray(np.inf, z.dtype), np.asarray(0, z.dtype))
            return np.where(np.isinf(z) & np.isfinite(x) & np.isfinite(y), np.copysign(most, z), z)
        if mistake == "infinity stays what it was":
            return np.where(np.isinf(x), np.broadcast_to(x, z.shape), z)
        if mistake == "NaN of the second alone":
            return np.where(np.isnan(x), np.broadcast_to(y, z.shape), z)
    return z


def swiglu(gate: Any, up: Any, *, mistake: str | None = None) -> Any:
    with np.errstate(all="ignore"):
        opened = silu(wide(gate))
        y = opened * wide(up)
        if mistake == "gates of 0 skip the product":
            y = np.where(opened == 0, 0, y)
        if mistake == "gates of NaN are shut":
            y = np.where(np.isnan(opened), 0, y)
        return y.astype(gate.dtype)


def rope_rotate(x: Any, cos: Any, sin: Any, *, traditional: bool = False, mistake: str | None = None) -> Any:
    half, y = cos.shape[-1], x.copy()
    places = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if traditional else (slice(half), slice(half, 2 * half))
    first, second = (wide(x[..., place]) for place in places)
    with np.errstate(all="ignore"):
        y[..., places[0]] = (first * cos - second * sin).astype(x.dtype)
        y[..., places[1]] = (first * sin + second * cos).astype(x.dtype)
    if mistake == "NaN to 0":
        return np.nan_to_num(y, nan=0, posinf=np.inf, neginf=-np.inf)
    return y


def embedding(ids: Any, weight: Any, *, mistake: str | None = None) -> Any:
    if mistake == "product with ones and zeros" and ids.size and weight.size:
        chosen = (ids.reshape(-1, 1) == np.arange(len(weight))).astype(wide(weight).dtype)
        with np.errstate(all="ignore"):
            return (chosen @ wide(weight)).astype(weight.dtype).reshape(*ids.shape, weight.shape[1])
    return weight[ids]


MUTANTS = (
    Mutant(
        "NaN taken for low",
        "silu",
        "fmax gives the number that is not NaN, here a low one: the error is hidden.",
        silu,
    ),
    Mutant("NaN written as 0", "silu", "nan_to_num behind a function, against inf / inf.", silu),
    Mutant("clamped to 1e30", "silu", "Against the overflow of exp; infinity becomes a number.", silu),
    Mutant(
        "by branches that NaN falls through",
        "gelu",
        "x > 9, |x| <= 9 and else: NaN is none of the first two, and comes out as 0.",
        gelu,
        library="torch",
    ),
    Mutant("tanh of exponentials", "gelu", "inf / inf from 5 on in float32.", gelu, library="torch"),
    Mutant("stays below infinity", "add", "A cast to 16 bits that saturates, as of GPUs' 8-bit floats.", add),
    Mutant("infinity stays what it was", "add", "inf - inf is NaN, but the first infinity is kept.", add),
    Mutant("NaN of the second alone", "add", "Missing data is taken for 0.", add),
    Mutant("gates of 0 skip the product", "swiglu", "0 * inf is NaN, and skipped it is 0.", swiglu),
    Mutant("gates of NaN are shut", "swiglu", "where(gate > 0, ...) is false for NaN.", swiglu),
    Mutant("NaN to 0", "rope_rotate", "nan_to_num behind a rotation.", rope_rotate, "full"),
    Mutant(
        "product with ones and zeros",
        "embedding",
        "A row chosen by a matrix product: 0 * inf of another row is NaN in all.",
        embedding,
        "full",
    ),
)
