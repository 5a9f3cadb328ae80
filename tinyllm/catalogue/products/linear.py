"""linear: every output is a weighted sum of the inputs."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, normal
from tinyllm.spec.op_spec import Input, OpSpec, Output
from tinyllm.spec.types import Call


def _reference(xp: Any, x: Any, weight: Any, *, bias: Any = None) -> Any:
    y = (
        xp.matmul(x, xp.permute_dims(weight, (1, 0)))
        if x.ndim > 1
        else xp.sum(xp.expand_dims(x, axis=0) * weight, axis=-1)
    )
    return y if bias is None else y + bias


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    size = np.abs(inputs["x"]) @ np.abs(inputs["weight"]).T
    return size if inputs.get("bias") is None else size + np.abs(inputs["bias"])


def _flops(call: Call) -> int:
    return int(2 * prod(call.shape("x")) * call.shape("weight")[0])


def _case(rows: tuple[int, ...], n: int, k: int, bias: bool = False, tier: str = "smoke", name: str = "") -> Case:
    inputs = {"x": normal(*rows, k), "weight": normal(n, k, scale=k**-0.5 if k else 1.0)}
    if bias:
        inputs["bias"] = normal(n)
    lead = "".join(f"{r}x" for r in rows)
    return Case(f"{name}{lead}{k},N{n}{',bias' if bias else ''}", inputs, tier=tier)


linear = OpSpec(
    name="linear",
    summary="Matrix product with a weight stored row by output, plus an optional bias.",
    formula="y = x W^T + b",
    source="PyTorch torch.nn.functional.linear, whose layout of the weight this is",
    inputs=(
        Input("x", "*B K"),
        Input("weight", "N K", about="a row for every output"),
        Input("bias", "N", optional=True),
    ),
    outputs=(Output("y", "*B N"),),
    reference=_reference,
    flops=_flops,
    scale=_scale,
    reference_errs=True,
    cases=(
        _case((), 3, 4),
        _case((1,), 5, 8),
        _case((2, 3), 4, 5, bias=True),
        _case((0,), 4, 3),
        _case((2,), 4, 0, bias=True),
        _case((7,), 33, 65, bias=True, tier="full"),
        _case((3,), 128, 1024, tier="full"),
        _case((1,), 1536, 576, tier="bench", name="decode:"),
        _case((128,), 1536, 576, tier="bench", name="prefill:"),
    ),
    more_cases="tinyllm.catalogue.cases.products:linear",
    bad_inputs=(
        BadInput(
            "K differs",
            {"x": normal(2, 3), "weight": normal(4, 5)},
            {},
            InvalidInputError,
            "linear: weight: expected shape",
        ),
        BadInput(
            "weight 1-d",
            {"x": normal(2, 3), "weight": normal(3)},
            {},
            InvalidInputError,
            "linear: weight: expected shape",
        ),
        BadInput(
            "bias too long",
            {"x": normal(2, 3), "weight": normal(4, 3), "bias": normal(5)},
            {},
            InvalidInputError,
            "linear: bias",
        ),
    ),
)
