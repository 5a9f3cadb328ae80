"""ONNX's norms, activations, rotations and cuts as calls of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.conformance.oracles.mapped import Mapped, NotMappedError
from tinyllm.conformance.oracles.onnx_cases import OnnxCase


def softmax(case: OnnxCase) -> list[Mapped]:
    """Softmax."""
    return [
        Mapped(
            "softmax", {"x": case.inputs["input"]}, {"axis": case.attributes.get("axis", -1)}, (case.outputs["output"],)
        )
    ]


def gelu(case: OnnxCase) -> list[Mapped]:
    """Gelu."""
    return [
        Mapped("gelu", {"x": case.inputs["X"]}, {"approximate": case.word("approximate", "none")}, (case.outputs["Y"],))
    ]


def swish(case: OnnxCase) -> list[Mapped]:
    """Swish: `x * sigmoid(alpha * x)` is `silu(alpha * x) / alpha`."""
    x, y = case.inputs["X"], case.outputs["Y"]
    alpha = x.dtype.type(case.attributes.get("alpha", 1.0))
    return [Mapped("silu", {"x": alpha * x}, {}, (alpha * y,))]


def swiglu(case: OnnxCase) -> list[Mapped]:
    """SwiGLU: `silu` of the gate has alpha in the sigmoid alone."""
    gate, up, y = case.inputs["A"], case.inputs["B"], case.outputs["Y"]
    return [Mapped("swiglu", {"gate": gate, "up": up}, {"alpha": case.attributes.get("alpha", 1.0)}, (y,))]


def rms_norm(case: OnnxCase) -> list[Mapped]:
    """RMSNormalization; several axes are normalised as one."""
    return _normed("rms_norm", case, weight="scale")


def layer_norm(case: OnnxCase) -> list[Mapped]:
    """LayerNormalization, likewise. Of its outputs the mean and the deviation are for training."""
    return _normed("layer_norm", case, weight="Scale", bias="B")


def _normed(op: str, case: OnnxCase, **weights: str) -> list[Mapped]:
    x, y = case.inputs["X"], case.outputs["Y"]
    lead = x.shape[: case.attributes.get("axis", -1) % x.ndim]
    inputs = {"x": x.reshape(*lead, -1)}
    for ours, theirs in weights.items():
        inputs[ours] = np.broadcast_to(case.inputs[theirs], x.shape[len(lead) :]).reshape(-1)
    return [Mapped(op, inputs, {"eps": case.attributes.get("epsilon", 1e-5)}, (y.reshape(*lead, -1),))]


def rotary_embedding(case: OnnxCase) -> list[Mapped]:
    """RotaryEmbedding as rope_rotate: its caches need not be cosines of anything. Packed heads become an axis."""
    x, cos, sin, y = (*(case.inputs[n] for n in ("X", "cos_cache", "sin_cache")), case.outputs["Y"])
    if (ids := case.inputs.get("position_ids")) is not None:
        cos, sin = cos[ids], sin[ids]
    if x.ndim == 4:  # [B, H, L, D]
        cos, sin = cos[:, None], sin[:, None]
    else:  # [B, L, H * D]
        heads = (*x.shape[:2], case.attributes["num_heads"], -1)
        x, y, cos, sin = x.reshape(heads), y.reshape(heads), cos[:, :, None], sin[:, :, None]
    attributes = {"traditional": bool(case.attributes.get("interleaved", 0))}
    return [Mapped("rope_rotate", {"x": x, "cos": cos, "sin": sin}, attributes, (y,))]


def sigmoid(case: OnnxCase) -> list[Mapped]:
    """Sigmoid."""
    return [Mapped("sigmoid", {"x": case.inputs["X"]}, {}, (case.outputs["Y"],))]


def add(case: OnnxCase) -> list[Mapped]:
    """Add, of floats."""
    return _of_two("add", case)


def mul(case: OnnxCase) -> list[Mapped]:
    """Mul, of floats."""
    return _of_two("mul", case)


def _of_two(op: str, case: OnnxCase) -> list[Mapped]:
    x, y, z = case.inputs["A"], case.inputs["B"], case.outputs["C"]
    if x.dtype.kind in "iu":
        raise NotMappedError(f"{x.dtype}: {op} takes floats")
    return [Mapped(op, {"x": x, "y": y}, {}, (z,))]


def split(case: OnnxCase) -> list[Mapped]:
    """Split."""
    axis, parts = case.attributes.get("axis", 0), tuple(case.outputs.values())
    sizes: Any = case.inputs.get("split")
    sizes = tuple(p.shape[axis] for p in parts) if sizes is None else tuple(map(int, sizes))
    return [Mapped("split", {"x": case.inputs["input"]}, {"sizes": sizes, "axis": axis}, parts)]
