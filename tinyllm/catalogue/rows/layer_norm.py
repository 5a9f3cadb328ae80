"""layer_norm: every row less its mean, divided by its standard deviation."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.spec.attribute_checks import number
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(xp: Any, x: Any, weight: Any, *, bias: Any = None, eps: float = 1e-5) -> Any:
    if x.shape[-1] == 0:  # the mean of nothing
        return x
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    y = centred / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps) * weight
    return y if bias is None else y + bias


def _steepness(inputs: Any, attributes: Any) -> Any:
    """What an error of a number of x, less its mean, is multiplied by."""
    x = inputs["x"]
    variance = np.var(x, axis=-1, keepdims=True) if x.shape[-1] else 0.0
    with np.errstate(divide="ignore"):
        return np.abs(inputs["weight"]) / np.sqrt(variance + attributes["eps"])


def _mean_size(x: Any) -> Any:
    return np.mean(np.abs(x), axis=-1, keepdims=True) if x.shape[-1] else 0.0


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """x less its mean errs by an ulp of either, however near they are to one another; then a bias is added."""
    x, bias = inputs["x"], inputs.get("bias")
    size = (np.abs(x) + _mean_size(x)) * _steepness(inputs, attributes)
    return size if bias is None else size + np.abs(bias)


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    """The mean is a sum; so is the variance, whose error the root halves."""
    x, bias = inputs["x"], inputs.get("bias")
    normed = outputs if bias is None else outputs - bias
    return x.shape[-1] ** 0.5 * (_mean_size(x) * _steepness(inputs, attributes) + np.abs(normed) / 2)


def _inputs(*shape: int, bias: bool = True) -> dict[str, Any]:
    weights = {"weight": normal(shape[-1]), "bias": normal(shape[-1])}
    return {"x": normal(*shape), **(weights if bias else {"weight": weights["weight"]})}


layer_norm = OpSpec(
    name="layer_norm",
    summary="Subtracts each row's mean, divides by its standard deviation, and applies a weight and a bias.",
    formula="y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, var(x) = mean((x - mean(x))^2)",
    source="Ba et al. 2016, arXiv:1607.06450",
    inputs=(Input("x", "*B D"), Input("weight", "D"), Input("bias", "D", optional=True)),
    attributes=(Attribute("eps", 1e-5, number(minimum=0), "keeps a row of equal numbers from dividing by zero"),),
    outputs=(Output("y", "*B D"),),
    reference=_reference,
    flops=lambda call: 7 * prod(call.shape("x")),
    scale=_scale,
    sums=_sums,
    notes=(
        "16-bit x is normed, weighted and shifted in float32 and rounded once.",
        "NaN, inf or -inf makes its whole row NaN: the mean is none (decision 23).",
    ),
    refused={"normalized_shape": "it is always the last axis"},
    cases=(
        Case("4", _inputs(4)),
        Case("3x8,no bias", _inputs(3, 8, bias=False)),
        Case("2x3x5,eps0.001", _inputs(2, 3, 5), {"eps": 1e-3}),
        Case("2x1,eps1", _inputs(2, 1), {"eps": 1.0}),
        Case("far from 0", {**_inputs(3, 8), "x": constant(np.linspace(95, 105, 24).reshape(3, 8), "float64")}),
        Case("equal", {**_inputs(2, 4), "x": constant([[0.0] * 4, [3.0] * 4], "float64")}),
        Case("eps rules", {**_inputs(2, 4), "x": normal(2, 4, scale=1e-3)}, {"eps": 1.0}),
        Case("large", {**_inputs(1, 4), "x": constant([[3e4, -2e4, 1e4, 0.0]], "float64")}),
        Case(
            "NaN and infinity",
            {
                **_inputs(4, 3),
                "x": constant([[1.0, np.nan, 2.0], [1.0, np.inf, 2.0], [-np.inf, 1.0, 2.0], [1.0, 2.0, 3.0]]),
            },
            tier="full",
            decision=23,
        ),
        Case("0x4", _inputs(0, 4), decision=20),
        Case("3x0", _inputs(3, 0, bias=False), decision=20),
        Case("7x1000", _inputs(7, 1000), tier="full"),
        Case("2x33x65", _inputs(2, 33, 65), tier="full"),
        Case("decode:1x3072", _inputs(1, 3072), tier="bench"),
        Case("prefill:128x3072", _inputs(128, 3072), tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.rows:layer_norm",
    bad_inputs=(
        BadInput(
            "weight too long",
            {"x": normal(2, 3), "weight": normal(4)},
            {},
            InvalidInputError,
            "layer_norm: weight: expected shape",
        ),
        BadInput(
            "bias 2-d",
            {"x": normal(2, 3), "weight": normal(3), "bias": normal(1, 3)},
            {},
            InvalidInputError,
            "layer_norm: bias: expected shape",
        ),
        BadInput(
            "no axes", {"x": constant(1.0), "weight": normal(1)}, {}, InvalidInputError, "layer_norm: x: expected shape"
        ),
        BadInput(
            "eps negative",
            {"x": normal(2, 3), "weight": normal(3)},
            {"eps": -1e-6},
            InvalidInputError,
            "layer_norm: eps: expected",
        ),
        BadInput(
            "shape",
            {"x": normal(2, 3), "weight": normal(3)},
            {"normalized_shape": 3},
            UnsupportedError,
            "always the last axis",
        ),
    ),
)
