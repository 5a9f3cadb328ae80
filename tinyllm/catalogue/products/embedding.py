"""embedding: a row of a table for each id."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal, quantized
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.quantized import dense, magnitude
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType, Call


def _reference(xp: Any, ids: Any, weight: Any) -> Any:
    """Of a quantized table only the rows asked for are expanded."""
    flat = xp.reshape(xp.astype(ids, xp.int64), (prod(ids.shape),))
    if isinstance(weight, QuantWeight):
        rows = weight.rows(lambda array: xp.take(array, flat, axis=0), flat.shape)
        numbers = dense(xp, rows, xp.float64 if weight.dtype == "float64" else xp.float32)
    else:
        numbers = xp.take(weight, flat, axis=0)
    return xp.reshape(numbers, (*ids.shape, weight.shape[1]))


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Numbers of a dense table are copied, so nothing may be off; those of a quantized one are computed."""
    weight = inputs["weight"]
    return magnitude(weight)[np.asarray(inputs["ids"])] if isinstance(weight, QuantWeight) else np.zeros_like(outputs)


def _flops(call: Call) -> int:
    """Of a quantized table's rows; those of a dense one are copied."""
    dense_table = isinstance(call.inputs["weight"], ArrayType)
    return 0 if dense_table else int(2 * prod(call.shape("ids")) * call.shape("weight")[1])


def _check_values(call: Call, values: Mapping[str, Any]) -> None:
    """Every id names a row."""
    ids, rows = values["ids"], call.shape("weight")[0]
    for worst in (ids.min(), ids.max()) if ids.size else ():
        if not 0 <= worst < rows:
            raise invalid("embedding", "ids", f"ids from 0 to {rows - 1}", worst)


def _bytes(call: Call) -> int:
    """Only the rows that are asked for are read: 4 bytes for an id, a row of the table, a row of the output."""
    weight, columns = call.inputs["weight"], call.shape("weight")[1]
    written = columns * numpy_dtype(call.dtype("weight")).itemsize
    read = columns * weight.scheme.bits_per_weight / 8 if isinstance(weight, QuantType) else written
    return int(prod(call.shape("ids")) * (4 + read + written))


embedding = OpSpec(
    name="embedding",
    summary="Looks up a row of a table, dense or quantized, for each id.",
    formula="y = weight[ids]",
    source="Bengio et al. 2003, A Neural Probabilistic Language Model",
    inputs=(
        Input("ids", "*B", "int", about="from 0 to V - 1; negative ids are refused"),
        Input("weight", "V D", "weight", about="a row for every id; dense or quantized"),
    ),
    outputs=(Output("y", "*B D"),),
    reference=_reference,
    check_values=_check_values,
    flops=_flops,
    bytes=_bytes,
    scale=_scale,
    notes=(
        "An id out of range is an error before anything runs, on every backend.",
        "The rows of a dense table are copied bit by bit; those of a quantized one are computed in float32 and rounded "
        "once to the dtype that the weight says.",
    ),
    cases=(
        Case("5,V7,D4", {"ids": integers(0, 7, 5), "weight": normal(7, 4)}),
        Case("2x3,V5,D3", {"ids": integers(0, 5, 2, 3), "weight": normal(5, 3)}),
        Case("scalar,V5,D3", {"ids": constant(4, "int32"), "weight": normal(5, 3)}),
        Case("int64 first and last,V6,D2", {"ids": constant([0, 5, 5, 0], "int64"), "weight": normal(6, 2)}),
        Case("uint8,V6,D2", {"ids": constant([1, 4], "uint8"), "weight": normal(6, 2)}),
        Case("0,V4,D3", {"ids": integers(0, 4, 0), "weight": normal(4, 3)}, decision=20),
        Case("0,V0,D3", {"ids": integers(0, 4, 0), "weight": normal(0, 3)}, decision=20),
        Case("2,V4,D0", {"ids": integers(0, 4, 2), "weight": normal(4, 0)}, decision=20),
        Case("257,V1000,D65", {"ids": integers(0, 1000, 257), "weight": normal(1000, 65)}, tier="full"),
        Case(
            "decode:1,V49152,D576,affine4/32",
            {"ids": integers(0, 49152, 1), "weight": quantized(Affine(4, 32), 49152, 576)},
            tier="bench",
        ),
        Case("decode:1,V49152,D576", {"ids": integers(0, 49152, 1), "weight": normal(49152, 576)}, tier="bench"),
        Case("prefill:128,V49152,D576", {"ids": integers(0, 49152, 128), "weight": normal(49152, 576)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.products:embedding",
    scheme_cases="tinyllm.catalogue.cases.schemes:embedding",
    bad_inputs=(
        BadInput(
            "id V",
            {"ids": constant([0, 4]), "weight": normal(4, 3)},
            {},
            InvalidInputError,
            "embedding: ids: expected ids from 0 to 3, got 4",
            decision=20,
        ),
        BadInput(
            "negative id",
            {"ids": constant([-1, 2]), "weight": normal(4, 3)},
            {},
            InvalidInputError,
            "embedding: ids: expected ids from 0 to 3, got -1",
            decision=20,
        ),
        BadInput(
            "float ids",
            {"ids": constant([0.0]), "weight": normal(4, 3)},
            {},
            InvalidInputError,
            "embedding: ids: expected an integer dtype",
        ),
        BadInput(
            "id V, quantized",
            {"ids": constant([0, 5], "int32"), "weight": quantized(Affine(4, 32), 5, 64)},
            {},
            InvalidInputError,
            "embedding: ids: expected ids from 0 to 4, got 5",
            decision=20,
        ),
        BadInput(
            "weight 1-d",
            {"ids": constant([0]), "weight": normal(4)},
            {},
            InvalidInputError,
            "embedding: weight: expected shape",
        ),
        BadInput(
            "integer weight",
            {"ids": constant([0]), "weight": integers(0, 9, 4, 3)},
            {},
            InvalidInputError,
            "embedding: weight: expected a float dtype",
        ),
    ),
)
