"""quantized_embedding: rows of a quantized table."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.quantize.dequantize import DTYPE, permuted, wide
from tinyllm.catalogue.quantize.packing import dequantized, magnitude
from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.cases import BadInput, Case, Draw, constant, integers, quantized
from tinyllm.spec.op_spec import Input, OpSpec, Output
from tinyllm.spec.quantized import BITS, QuantWeight
from tinyllm.spec.types import Call


def _reference(xp: Any, ids: Any, weight: QuantWeight, *, dtype: str = "float32") -> Any:
    flat = xp.reshape(ids, (-1,)) if prod(ids.shape) else xp.zeros((0,), dtype=xp.int32)
    rows = weight.rows(lambda array: xp.take(array, flat, axis=0), flat.shape)
    return xp.reshape(dequantized(xp, rows), (*ids.shape, weight.shape[-1]))


def _check_values(call: Call, values: Any) -> None:
    ids, rows = values["ids"], call.shape("weight")[0]
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise invalid("quantized_embedding", "ids", f"0 to {rows - 1}", f"{int(ids.min())} to {int(ids.max())}")


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    return magnitude(inputs["weight"])[np.asarray(inputs["ids"])]


def _bytes(call: Call) -> int:
    """Only the rows asked for are read; 4 bytes for an id, and for each number of the output."""
    weight: Any = call.inputs["weight"]
    columns = weight.shape[-1]
    row = columns * weight.bits // 8 + columns // weight.group_size * 4
    return int(prod(call.shape("ids")) * (4 + row + columns * 4))


def _bad(name: str, ids: Draw, match: str) -> BadInput:
    return BadInput(name, {"ids": ids, "weight": quantized(5, 64)}, {}, InvalidInputError, match, decision=20)


quantized_embedding = OpSpec(
    name="quantized_embedding",
    summary="Rows of a quantized table, as floats.",
    formula="y = dequantize(W)[ids]",
    source="as dequantize; only the rows asked for are unpacked",
    inputs=(
        Input("ids", "*B", "int"),
        Input("weight", "V D", "quant"),
    ),
    attributes=(DTYPE,),
    outputs=(Output("y", "*B D", "=dtype"),),
    reference=_reference,
    check_values=_check_values,
    flops=lambda call: 2 * prod(call.shape("ids")) * call.shape("weight")[1],
    bytes=_bytes,
    scale=_scale,
    notes=("Negative ids and ids past the table are an error, never wrapped.",),
    cases=(
        *(
            Case(f"4,V7,D96,affine{bits}/32", {"ids": integers(0, 7, 4), "weight": quantized(7, 96, bits=bits)})
            for bits in BITS
        ),
        Case("4,V7,D64,int8/32", {"ids": integers(0, 7, 4), "weight": quantized(7, 64, bits=8, scheme="int8")}),
        Case("2x3,V5,D64", {"ids": integers(0, 5, 2, 3), "weight": quantized(5, 64)}),
        Case("one id,V5,D64", {"ids": constant(4, "int32"), "weight": quantized(5, 64)}),
        Case("3,V5,D64,float32 scales", {"ids": integers(0, 5, 3), "weight": wide(5, 64)}),
        Case("3,V5,D64,permuted", {"ids": integers(0, 5, 3), "weight": permuted(5, 64)}),
        Case("3,V5,D64,to float16", {"ids": integers(0, 5, 3), "weight": quantized(5, 64)}, {"dtype": "float16"}),
        Case("0,V5,D64", {"ids": constant([], "int32"), "weight": quantized(5, 64)}, decision=20),
        Case("65,V300,D576", {"ids": integers(0, 300, 65), "weight": quantized(300, 576)}, tier="full"),
        Case("decode:1,V49152,D576", {"ids": integers(0, 49152, 1), "weight": quantized(49152, 576)}, tier="bench"),
        Case(
            "prefill:128,V49152,D576", {"ids": integers(0, 49152, 128), "weight": quantized(49152, 576)}, tier="bench"
        ),
    ),
    more_cases="tinyllm.catalogue.cases.quantized:quantized_embedding",
    bad_inputs=(
        _bad("id too large", constant([0, 5], "int32"), "ids: expected 0 to 4"),
        _bad("id negative", constant([-1], "int32"), "ids: expected 0 to 4"),
        _bad("float ids", constant([1.0], "float64"), "ids: expected an integer dtype"),
    ),
)
