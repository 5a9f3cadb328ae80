"""linear: every output is a weighted sum of the inputs."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, Draw, normal, quantized
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.quantized import dense, magnitude


def product(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """`x W^T + b`, x `[*B, K]`, a dense or quantized weight `[N, K]`, in the dtype of x."""
    matrix = dense(xp, weight, x.dtype)
    y = (
        xp.matmul(x, xp.permute_dims(matrix, (1, 0)))
        if x.ndim > 1
        else xp.sum(xp.expand_dims(x, axis=0) * matrix, axis=-1)
    )
    return y if bias is None else y + bias


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """The sum of |x||w|: each term and each partial sum may be rounded by an ulp of it (Higham 2002, section 3.1)."""
    size = np.abs(inputs["x"]) @ magnitude(inputs["weight"]).T
    return size if inputs.get("bias") is None else size + np.abs(inputs["bias"])


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    return (inputs["x"].shape[-1] + 1) ** 0.5 * scale


def linear_case(
    rows: tuple[int, ...], weight: Draw, form: str = "", *, bias: bool = False, tier: str = "smoke", name: str = ""
) -> Case:
    """x `[*rows, K]` times a weight `[N, K]`; `form` says how the weight is held."""
    n, k = weight.shape
    inputs = {"x": normal(*rows, k), "weight": weight} | ({"bias": normal(n)} if bias else {})
    shape = "x".join(map(str, (*rows, k)))
    return Case(f"{name}{shape},N{n}{',' + form if form else ''}{',bias' if bias else ''}", inputs, tier=tier)


def _dense(rows: tuple[int, ...], n: int, k: int, bias: bool = False, tier: str = "smoke", name: str = "") -> Case:
    return linear_case(rows, normal(n, k, scale=k**-0.5 if k else 1.0), bias=bias, tier=tier, name=name)


_FOUR = Affine(4, 32)

linear = OpSpec(
    name="linear",
    summary="Matrix product with a weight stored row by output, dense or quantized, plus an optional bias.",
    formula="y = x W^T + b",
    source="PyTorch torch.nn.functional.linear, whose layout of the weight this is; quantized: Dettmers et al. 2022, "
    "arXiv:2208.07339",
    inputs=(
        Input("x", "*B K"),
        Input("weight", "N K", "weight", about="a row for every output"),
        Input("bias", "N", optional=True),
    ),
    outputs=(Output("y", "*B N"),),
    reference=product,
    flops=lambda call: 2 * prod(call.shape("x")) * call.shape("weight")[0],
    scale=_scale,
    sums=_sums,
    notes=(
        "A quantized weight stands for the numbers of its scheme's formula, exactly; a kernel that rounds activations "
        "to integers is not exact, and runs only when asked for.",
    ),
    cases=(
        _dense((), 3, 4),
        _dense((1,), 5, 8),
        _dense((2, 3), 4, 5, bias=True),
        _dense((0,), 4, 3),
        _dense((2,), 4, 0, bias=True),
        _dense((7,), 33, 65, bias=True, tier="full"),
        _dense((3,), 128, 1024, tier="full"),
        _dense((1,), 1536, 576, tier="bench", name="decode:"),
        _dense((128,), 1536, 576, tier="bench", name="prefill:"),
        linear_case((1,), quantized(_FOUR, 1536, 576), "affine4/32", tier="bench", name="decode:"),
        linear_case((1,), quantized(_FOUR, 576, 1536), "affine4/32", tier="bench", name="decode:"),
        linear_case((1,), quantized(_FOUR, 49152, 576), "affine4/32", tier="bench", name="decode:"),
        linear_case((1,), quantized(Int8(32), 49152, 576), "int8/32", tier="bench", name="decode:"),
        linear_case((128,), quantized(_FOUR, 1536, 576), "affine4/32", tier="bench", name="prefill:"),
    ),
    more_cases="tinyllm.catalogue.cases.products:linear",
    scheme_cases="tinyllm.catalogue.cases.schemes:linear",
    bad_inputs=(
        BadInput(
            "K differs", {"x": normal(2, 3), "weight": normal(4, 5)}, {}, InvalidInputError, "weight: expected shape"
        ),
        BadInput(
            "weight 1-d", {"x": normal(2, 3), "weight": normal(3)}, {}, InvalidInputError, "weight: expected shape"
        ),
        BadInput(
            "bias too long",
            {"x": normal(2, 3), "weight": normal(4, 3), "bias": normal(5)},
            {},
            InvalidInputError,
            "linear: bias",
        ),
        BadInput(
            "K differs, quantized",
            {"x": normal(2, 32), "weight": quantized(_FOUR, 4, 64)},
            {},
            InvalidInputError,
            "weight: expected shape",
        ),
    ),
)
