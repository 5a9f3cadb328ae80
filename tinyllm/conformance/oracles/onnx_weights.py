"""ONNX's matrix products, tables, quantized numbers and cache writes as calls of ours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.bits import WORD, pack, per_column
from tinyllm.conformance.oracles.mapped import Mapped, NotMappedError
from tinyllm.conformance.oracles.onnx_cases import OnnxCase
from tinyllm.spec.scheme import QuantWeight

BITS = {"uint8": (8, 0), "int8": (8, 128), "uint4": (4, 0), "int4": (4, 8), "uint2": (2, 0), "int2": (2, 2)}
"""Integers that affine weights hold: their bits, and what is added to them so that none is negative."""


def matmul(case: OnnxCase) -> list[Mapped]:
    """MatMul by one matrix, or by a vector, which is a matrix of one row."""
    a, b, y = case.inputs["A"], case.inputs["B"], case.outputs["Y"]
    if b.ndim == 1:
        return [Mapped("linear", {"x": a, "weight": b[None]}, {}, (y[..., None],))]
    if b.ndim == 2:
        return [Mapped("linear", {"x": a, "weight": np.ascontiguousarray(b.T)}, {}, (y,))]
    if a.ndim == 1:  # the vector is the weight, the stack what it is applied to
        return [
            Mapped(
                "linear", {"x": np.ascontiguousarray(np.swapaxes(b, -1, -2)), "weight": a[None]}, {}, (y[..., None],)
            )
        ]
    raise NotMappedError("a matrix for each entry of the batch: linear has one weight")


def gemm(case: OnnxCase) -> list[Mapped]:
    """Gemm; alpha and beta are multiplied in before."""
    a, b, c, y = case.inputs["A"], case.inputs["B"], case.inputs.get("C"), case.outputs["Y"]
    a = a.T if case.attributes.get("transA") else a
    b = b if case.attributes.get("transB") else b.T
    alpha, beta = (a.dtype.type(case.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    inputs = {"x": np.ascontiguousarray(alpha * a), "weight": np.ascontiguousarray(b)}
    if c is not None:
        if c.ndim == 2 and c.shape[0] != 1:
            raise NotMappedError("a bias for each element: linear has one for each output")
        inputs["bias"] = np.broadcast_to(beta * c, (1, y.shape[-1])).reshape(-1).copy()
    return [Mapped("linear", inputs, {}, (y,))]


def gather(case: OnnxCase) -> list[Mapped]:
    """Gather: the axis goes to the front, all others are the row of a table."""
    data, ids, y = case.inputs["data"], case.inputs["indices"], case.outputs["output"]
    if (ids < 0).any():
        raise NotMappedError("negative indices: embedding refuses them")
    axis = case.attributes.get("axis", 0) % data.ndim
    front = tuple(range(axis, axis + ids.ndim))
    rows = np.moveaxis(y, front, tuple(range(ids.ndim))).reshape(*ids.shape, -1)
    return [
        Mapped(
            "embedding", {"ids": ids, "weight": np.moveaxis(data, axis, 0).reshape(data.shape[axis], -1)}, {}, (rows,)
        )
    ]


def dequantize(case: OnnxCase) -> list[Mapped]:
    """DequantizeLinear: `scale * (q - zero)` is `scale * q + bias`; rows are filled up to whole words."""
    x, scale, y = case.inputs["x"], case.inputs["x_scale"], case.outputs["y"]
    if str(x.dtype) not in BITS:
        raise NotMappedError(f"{x.dtype}: affine weights are integers of at most 8 bits")
    bits, shift = BITS[str(x.dtype)]
    zero = (
        np.zeros(scale.shape)
        if case.inputs.get("x_zero_point") is None
        else case.inputs["x_zero_point"].astype(np.float64)
    )
    axis, size = case.attributes.get("axis", 1), case.attributes.get("block_size", 0)
    if scale.ndim:  # by rows, the quantized axis first; by blocks it is the last, which groups run along
        x, y = (np.moveaxis(a, axis, -1 if size else 0) for a in (x, y))
        scale, zero = (np.moveaxis(a, axis, -1) if size else a.reshape(-1, 1) for a in (scale, zero))
    rows = (-1, x.shape[-1]) if size else (scale.size, x.size // scale.size)
    q, y = (a.reshape(rows) for a in (x.astype(np.int64) + shift, y))
    spare = -q.shape[1] % math.lcm(size or 1, WORD // math.gcd(bits, WORD))
    if size and spare:
        raise NotMappedError("blocks that do not fill whole words")
    group = size or q.shape[1] + spare
    scales = scale.astype(np.float32).reshape(len(q), -1)
    biases = (-scales * (zero.reshape(scales.shape) + shift)).astype(np.float32)
    q = np.pad(q, [(0, 0), (0, spare)])
    y = np.concatenate((y, per_column(np, biases, group)[:, y.shape[1] :].astype(y.dtype)), axis=1)
    arrays = {"q": pack(np, q, bits), "scales": scales, "biases": biases}
    weight = QuantWeight(Affine(bits, group), arrays, q.shape, str(y.dtype))
    return [Mapped("dequantize", {"weight": weight}, {}, (y,))]


def tensor_scatter(case: OnnxCase) -> list[Mapped]:
    """TensorScatter as kv_append: each sequence's cache is a page; values are written as the keys are."""
    cache, update, y = case.inputs["past_cache"], case.inputs["update"], case.outputs["present_cache"]
    if case.attributes.get("axis", -2) % cache.ndim != cache.ndim - 2:
        raise NotMappedError("tokens along another axis than the last but one")
    if cache.ndim == 3:
        cache, update, y = (a[:, None] for a in (cache, update, y))
    batch, heads, room, dim = cache.shape
    first: Any = case.inputs.get("write_indices", np.zeros(batch, np.int64))
    place = first[:, None] + np.arange(update.shape[2])
    if case.word("mode", "linear") == "circular":
        place = place % room
    slots = (np.arange(batch)[:, None] * room + place).reshape(-1)
    tokens = np.swapaxes(update, 1, 2).reshape(-1, heads, dim)
    inputs = {"k_pages": cache, "v_pages": cache.copy(), "k": tokens, "v": tokens.copy(), "slots": slots}
    return [Mapped("kv_append", inputs, {}, (y, y))]
