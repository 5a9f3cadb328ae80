"""PyTorch's own functions, in float64, judge our ops on every backend where the meaning is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.ops.harness import backends, registry
from tinyllm.ops import make_ops

torch = pytest.importorskip("torch")
F = torch.nn.functional

OPS = make_ops(registry())


def _arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _wide(array: Any) -> Any:
    tensor = torch.from_numpy(np.asarray(array))
    return tensor.double() if tensor.is_floating_point() else tensor


def _judge(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-5, atol=2e-5)


def _sdpa(**keywords: Any) -> Callable[..., Any]:
    """F.scaled_dot_product_attention in our words."""
    names = {"mask": "attn_mask", "causal": "is_causal", "scale": "scale"}
    theirs = {names[k]: _wide(v) if isinstance(v, np.ndarray) else v for k, v in keywords.items()}
    return lambda q, k, v, **more: F.scaled_dot_product_attention(_wide(q), _wide(k), _wide(v), **theirs, **more)


SOME = np.random.default_rng(3).random((4, 6)) < 0.6
SOME[:, 0] = True  # a row without keys means NaN to torch
BIAS = np.random.default_rng(4).standard_normal((2, 1, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("keywords", [{}, {"scale": 0.3}, {"mask": SOME}, {"mask": BIAS}], ids=["plain", "scale", "bool", "float"])
def test_sdpa(backend: str, keywords: dict[str, Any]) -> None:
    a = _arrays(q=(2, 3, 4, 8), k=(2, 3, 6, 8), v=(2, 3, 6, 5))
    _judge(OPS["sdpa"](a["q"], a["k"], a["v"], **keywords, backend=backend), _sdpa(**keywords)(a["q"], a["k"], a["v"]))


@pytest.mark.parametrize("backend", backends())
def test_causal_agrees_where_the_lengths_are_the_same(backend: str) -> None:
    """Elsewhere it cannot: torch aligns to the start, we to the end."""
    a = _arrays(q=(2, 3, 6, 8), k=(2, 3, 6, 8), v=(2, 3, 6, 8))
    _judge(OPS["sdpa"](a["q"], a["k"], a["v"], causal=True, backend=backend), _sdpa(causal=True)(a["q"], a["k"], a["v"]))


@pytest.mark.parametrize("backend", backends())
def test_gqa(backend: str) -> None:
    a = _arrays(q=(2, 6, 4, 8), k=(2, 2, 5, 8), v=(2, 2, 5, 8))
    _judge(OPS["gqa"](a["q"], a["k"], a["v"], backend=backend), _sdpa()(a["q"], a["k"], a["v"], enable_gqa=True))


def _layer(**settings: Any) -> Any:
    torch.manual_seed(1)
    layer = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float32, **settings)
    with torch.no_grad():
        for parameter in layer.parameters():  # biases start at 0, where a mistake with them would not show
            parameter.copy_(torch.randn(parameter.shape) * 0.4)
    return layer


def _weights(layer: Any) -> dict[str, np.ndarray]:
    """The layer's parameters by our names."""
    given = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    weights = {"o_proj": given["out_proj.weight"], "num_heads": 3}
    if "in_proj_weight" in given:
        given |= dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), np.split(given["in_proj_weight"], 3), strict=True))
    weights |= {f"{n}_proj": given[f"{n}_proj_weight"] for n in "qkv"}
    if "in_proj_bias" in given:
        weights |= dict(zip(("q_bias", "k_bias", "v_bias"), np.split(given["in_proj_bias"], 3), strict=True))
        weights["o_bias"] = given["out_proj.bias"]
    if "bias_k" in given:
        weights |= {"bias_k": given["bias_k"].reshape(-1), "bias_v": given["bias_v"].reshape(-1)}
    return weights


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": False},
        {"kdim": 7, "vdim": 5},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
    ids=["plain", "no bias", "kdim, vdim", "bias_kv", "zero_attn", "bias_kv and zero_attn"],
)
@pytest.mark.parametrize("masks", [(), ("key_mask",), ("mask",), ("mask", "key_mask")], ids=["", "key mask", "mask", "both masks"])
@pytest.mark.parametrize("need_weights", ["heads", "mean"])
def test_mha(backend: str, settings: dict[str, Any], masks: tuple[str, ...], need_weights: str) -> None:
    """nn.MultiheadAttention, whose bool masks say the opposite of ours; output and weights."""
    layer = _layer(**settings)
    a = _arrays(query=(2, 4, 12), key=(2, 6, settings.get("kdim", 12)), value=(2, 6, settings.get("vdim", 12)))
    key_mask = np.array([[True] * 6, [True] * 4 + [False] * 2])
    ours = {"mask": SOME, "key_mask": key_mask}
    theirs = {"mask": ("attn_mask", ~SOME), "key_mask": ("key_padding_mask", ~key_mask)}
    y, weights = layer.double()(
        *map(_wide, a.values()),
        average_attn_weights=need_weights == "mean",
        **{theirs[m][0]: torch.from_numpy(theirs[m][1]) for m in masks},
    )
    result = OPS["mha"](
        a["query"], key=a["key"], value=a["value"], need_weights=need_weights, backend=backend, **_weights(layer.float()),
        **{m: ours[m] for m in masks}, **({"add_zero_attn": True} if settings.get("add_zero_attn") else {}),
    )  # fmt: skip
    _judge(result[0], y)
    _judge(result[1], weights)


PLAIN = {
    "linear": ({"x": (2, 3, 8), "weight": (5, 8), "bias": (5,)}, {}, lambda x, weight, bias: F.linear(x, weight, bias)),
    "softmax": ({"x": (2, 3, 8)}, {"axis": 1}, lambda x: F.softmax(x, 1)),
    "rms_norm": ({"x": (2, 3, 8), "weight": (8,)}, {"eps": 1e-3}, lambda x, weight: F.rms_norm(x, (8,), weight, 1e-3)),
    "silu": ({"x": (2, 8)}, {}, lambda x: F.silu(x)),
    "gelu": ({"x": (2, 8)}, {}, lambda x: F.gelu(x)),
    "gelu tanh": ({"x": (2, 8)}, {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    "swiglu": ({"gate": (2, 8), "up": (2, 8)}, {}, lambda gate, up: F.silu(gate) * up),
}


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", list(PLAIN))
def test_elementary_ops(name: str, backend: str) -> None:
    shapes, attributes, judge = PLAIN[name]
    a = _arrays(**shapes)
    _judge(OPS[name.partition(" ")[0]](**a, **attributes, backend=backend), judge(**{n: _wide(v) for n, v in a.items()}))
