"""moe_experts: the feed-forward layers of the experts that each token goes to, summed with its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyllm.catalogue.moe.moe_experts_cases import BAD_INPUTS, CASES
from tinyllm.catalogue.rows.silu import silu_of
from tinyllm.errors import invalid
from tinyllm.spec.attribute_checks import choice, number, optional
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.experts import named_experts
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.quantized import dense, magnitude
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import Call

MATRICES = ("gate_proj", "up_proj", "down_proj")


def _of(weight: Any, expert: int) -> Any:
    """The matrix of an expert, still quantized."""
    return weight.matrix(expert) if isinstance(weight, QuantWeight) else weight[expert, ...]


def _by_expert(xp: Any, x: Any, experts: Any, weights: Any, width: int, of_expert: Callable[[Any, int], Any]) -> Any:
    """`[T, K]`: the weighted sums of what `of_expert(rows of x, expert)` gives, `[rows, width]`."""
    order, parts = [np.zeros(0, np.int64)], [xp.zeros((0, width), dtype=x.dtype)]
    for expert, places, tokens in named_experts(experts):
        order.append(places)
        parts.append(of_expert(xp.take(x, xp.asarray(tokens), axis=0), expert))
    back = xp.asarray(np.argsort(np.concatenate(order), kind="stable"))
    each = xp.reshape(xp.take(xp.concat(parts, axis=0), back, axis=0), (*experts.shape, width))
    return xp.sum(each * xp.expand_dims(xp.astype(weights, x.dtype), axis=-1), axis=1)


def _product(xp: Any, x: Any, matrix: Any, bias: Any, expert: int) -> Any:
    y = xp.matmul(x, xp.permute_dims(dense(xp, _of(matrix, expert), x.dtype), (1, 0)))
    return y if bias is None else y + bias[expert, ...]


def _activated(
    xp: Any, gate: Any, up: Any, activation: str, limit: float | None, alpha: float, up_offset: float
) -> Any:
    if limit is not None:
        gate, up = xp.minimum(gate, limit + 0 * gate), xp.clip(up, -limit, limit)
    if activation == "gelu_tanh":
        gate = 0.5 * gate * (1 + xp.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate * gate * gate)))
    else:
        gate = silu_of(xp, alpha * gate) / alpha
    return gate * (up + up_offset)


def _reference(
    xp: Any,
    x: Any,
    experts: Any,
    weights: Any,
    gate_proj: Any,
    up_proj: Any,
    down_proj: Any,
    *,
    gate_bias: Any = None,
    up_bias: Any = None,
    down_bias: Any = None,
    **settings: Any,
) -> Any:
    chosen = {"activation": "silu", "limit": None, "alpha": 1.0, "up_offset": 0.0} | settings

    def of_expert(rows: Any, expert: int) -> Any:
        gate, up = _product(xp, rows, gate_proj, gate_bias, expert), _product(xp, rows, up_proj, up_bias, expert)
        return _product(xp, _activated(xp, gate, up, **chosen), down_proj, down_bias, expert)

    return _by_expert(xp, x, experts, weights, x.shape[1], of_expert)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Errors of the first products are relative to the sums of |x||w|; an activation passes on at most 1.1 of them, and
    has one of the size of its argument. Those of the second are relative to the same sums over what it multiplies."""
    limit, offset = attributes["limit"], attributes["up_offset"]

    def product(rows: Any, name: str, expert: int) -> tuple[Any, Any]:
        """A product, and the sum of the sizes of its terms."""
        matrix, bias = _of(inputs[f"{name}_proj"], expert), inputs.get(f"{name}_bias")
        added = np.zeros(()) if bias is None else bias[expert]
        y = rows @ dense(np, matrix, np.float64).T + added
        return y, np.abs(rows) @ magnitude(matrix).T + np.abs(added)

    def of_expert(rows: Any, expert: int) -> Any:
        (gate, of_gate), (up, of_up) = product(rows, "gate", expert), product(rows, "up", expert)
        if limit is not None:
            gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        size = 1.1 * of_gate * np.abs(up + offset) + np.abs(gate) * (of_up + abs(offset) + np.abs(up + offset))
        down, bias = magnitude(_of(inputs["down_proj"], expert)), inputs.get("down_bias")
        return size @ down.T + (0.0 if bias is None else np.abs(bias[expert]))

    factors = np.abs(inputs["weights"])
    return _by_expert(np, inputs["x"], inputs["experts"], factors, outputs.shape[1], of_expert)


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    _, rows, columns = inputs["gate_proj"].shape
    return (rows + columns + inputs["experts"].shape[1] + 1) ** 0.5 * scale


def _check(call: Call) -> None:
    if call.attributes["activation"] != "silu" and call.attributes["alpha"] != 1.0:
        raise invalid("moe_experts", "alpha", "1.0 beside activation 'gelu_tanh'", call.attributes["alpha"])


def _check_values(call: Call, values: Mapping[str, Any]) -> None:
    """Every number names an expert."""
    experts, count = values["experts"], call.shape("gate_proj")[0]
    for worst in (experts.min(), experts.max()) if experts.size else ():
        if not 0 <= worst < count:
            raise invalid("moe_experts", "experts", f"numbers from 0 to {count - 1}", worst)


def _flops(call: Call) -> int:
    (tokens, top_k), (_, rows, columns) = call.shape("experts"), call.shape("gate_proj")
    return int(tokens * top_k * (6 * rows * columns + 5 * rows + 2 * columns))


def _bytes(call: Call) -> int:
    """The matrices of the experts that are named, as if each token named others; x, y, experts and weights."""
    (tokens, top_k), (count, rows, columns) = call.shape("experts"), call.shape("gate_proj")
    named, item = min(tokens * top_k, count), numpy_dtype(call.dtype("x")).itemsize
    numbers = 0.0
    for name in MATRICES:
        what = call.inputs[name]
        bits = (
            what.scheme.bits_per_weight if isinstance(what, QuantType) else 8 * numpy_dtype(call.dtype(name)).itemsize
        )
        numbers += rows * columns * bits / 8
    return int(named * numbers + tokens * (2 * columns * item + 8 * top_k))


moe_experts = OpSpec(
    name="moe_experts",
    summary="Feed-forward layers of the experts that each token goes to, dense or quantized, summed with its weights.",
    formula="y = sum_j weights_j (down_e (act(gate_e x + gate_bias_e) (up_e x + up_bias_e + up_offset)) + down_bias_e) "
    "with e = experts_j",
    source="Shazeer et al. 2017, arXiv:1701.06538; gated: Jiang et al. 2024, arXiv:2401.04088; clamped: OpenAI 2025, "
    "arXiv:2508.10925",
    inputs=(
        Input("x", "T K"),
        Input("experts", "T top_k", "int", about="which experts each token goes to, as `moe_router` gives them"),
        Input("weights", "T top_k", "float", about="of each expert's output in the sum"),
        Input("gate_proj", "E N K", "weight", about="a matrix for each expert"),
        Input("up_proj", "E N K", "weight"),
        Input("down_proj", "E K N", "weight"),
        Input("gate_bias", "E N", optional=True),
        Input("up_bias", "E N", optional=True),
        Input("down_bias", "E K", optional=True, about="added before the weights are multiplied"),
    ),
    attributes=(
        Attribute("activation", "silu", choice("silu", "gelu_tanh"), "of the gate"),
        Attribute(
            "limit", None, optional(number(above=0.0)), "gates are at most this, ups between -limit and limit, before "
            "the activation; None: as they are"
        ),
        Attribute("alpha", 1.0, number(above=0.0), "silu is gate * sigmoid(alpha * gate)"),
        Attribute("up_offset", 0.0, number(), "added to ups, after they are clamped"),
    ),
    outputs=(Output("y", "T K"),),
    reference=_reference,
    check=_check,
    check_values=_check_values,
    flops=_flops,
    bytes=_bytes,
    scale=_scale,
    sums=_sums,
    host=("experts",),
    notes=(
        "Only the matrices of experts that are named are read; each expert multiplies all its tokens at once.",
        "Nothing is rounded between the products: 16-bit results are rounded once.",
        "A token may name an expert twice; both are added.",
        "The three stacks may be of different schemes.",
    ),
    refused={"gate_up_proj": "cut it into gate_proj and up_proj", "top_k": "it is the last axis of experts"},
    cases=CASES,
    scheme_cases="tinyllm.catalogue.moe.moe_experts_cases:of_scheme",
    bad_inputs=BAD_INPUTS,
)  # fmt: skip
