"""How the ropes of a GGUF file are stretched: its metadata, and the divisors that it keeps as a tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.errors import CheckpointError
from tinyllm.models.families.gguf_fields import GgufFields

ROPE_FACTORS = "rope_freqs.weight"
_LONG_AND_SHORT = ("rope_factors_long.weight", "rope_factors_short.weight")
ROPE_TENSORS = {ROPE_FACTORS, *_LONG_AND_SHORT}
"""Divisors of frequencies, which belong to the config."""
_OF_SCALING = (
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)


def rope_scaling(fields: GgufFields, dims: int) -> dict[str, Any] | None:
    """The `rope_scaling` of a `config.json`, for rotated dims of a head."""
    kind = fields.get("rope.scaling.type", "none")
    fields.ignore(*_OF_SCALING)  # those of other kinds say nothing
    if ROPE_FACTORS in fields.file.tensors:
        if kind != "none":
            raise fields.fail("rope.scaling.type", f"none beside {ROPE_FACTORS}", kind)
        return _llama3(fields, dims)
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    attention = fields.number("rope.scaling.attn_factor", 1.0) * fields.number("rope.scaling.yarn_attn_factor", 1.0)
    if any(name in fields.file.tensors for name in _LONG_AND_SHORT):
        if kind not in ("none", "longrope"):
            raise fields.fail("rope.scaling.type", f"none or longrope beside {_LONG_AND_SHORT[0]}", kind)
        long, short = (_divisors(fields, name, dims).tolist() for name in _LONG_AND_SHORT)
        return {
            "rope_type": "longrope",
            "long_factor": long,
            "short_factor": short,
            "original_max_position_embeddings": fields.integer("rope.scaling.original_context_length"),
            "attention_factor": attention,
        }
    if kind == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": fields.integer("rope.scaling.original_context_length"),
            "beta_fast": fields.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": fields.number("rope.scaling.yarn_beta_slow", 1.0),
        }
        # llama.cpp multiplies YaRN's own attention factor by this one, Hugging Face's key replaces it
        return scaling if attention == 1 else scaling | {"attention_factor": attention * (0.1 * math.log(factor) + 1)}
    if attention != 1:
        raise fields.fail("rope.scaling.attn_factor", f"1 for scaling type {kind}", attention)
    if kind == "linear" or (kind == "none" and fields.get("rope.scale_linear") is not None):
        return {"rope_type": "linear", "factor": factor}
    if kind != "none":
        raise fields.fail("rope.scaling.type", "none, linear or yarn", kind)
    return None


def _divisors(fields: GgufFields, name: str, dims: int) -> NDArray[np.float32]:
    """A tensor with a number for each pair."""
    tensor = fields.file.tensors.get(name)
    if tensor is None or tensor.kind != "F32" or tensor.shape != (dims // 2,):
        got = "nothing" if tensor is None else f"{tensor.kind} {list(tensor.shape)}"
        raise CheckpointError(f"{fields.file.path}: {name}: expected F32 [{dims // 2}], got {got}")
    return np.frombuffer(fields.file.map, "<f4", dims // 2, tensor.start)


def _llama3(fields: GgufFields, dims: int) -> dict[str, Any]:
    """Llama 3.1's scaling from the divisors that the file keeps in `rope_freqs.weight`, float32 `[D / 2]`.

    The divisors do not tell the settings apart, so they are made again from Meta's published ones and held against
    the file.
    """
    divisors = _divisors(fields, ROPE_FACTORS, dims)
    factor = float(divisors.max())
    low, high, original = 1.0, 4.0, 8192
    turns = original * fields.number("rope.freq_base", 10000.0) ** (-np.arange(0, dims, 2) / dims) / (2 * math.pi)
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    if not (factor > 0 and np.allclose(divisors, 1 / ((1 - ramp) / factor + ramp), rtol=1e-3)):
        raise CheckpointError(
            f"{fields.file.path}: {ROPE_FACTORS}: expected Llama 3's divisors (low 1, high 4, original context "
            f"8192), got others"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
