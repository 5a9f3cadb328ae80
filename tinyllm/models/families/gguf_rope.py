"""How the ropes of a GGUF file are stretched: its metadata, and the divisors that it keeps as tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyllm.errors import CheckpointError
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.ranges import is_number, number_expected

ROPE_FACTORS = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)
"""Tensors that are settings of the rope, and no weights."""
STILL = 1e30
"""What the frequencies of pairs that stay as they are get divided by."""
_OF_SCALING = (
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_log_multiplier",
)


def rope_scaling(fields: GgufFields, dims: int) -> dict[str, Any] | None:
    """The `rope_scaling` of a `config.json`, for rotated dims of a head."""
    kind = fields.get("rope.scaling.type", "none")
    fields.ignore(*_OF_SCALING)  # those of other kinds say nothing
    if ROPE_FACTORS in fields.file.tensors:
        if kind != "none":
            raise fields.fail("rope.scaling.type", f"none beside {ROPE_FACTORS}", kind)
        return _divided(fields, dims)
    if SHORT_FACTORS in fields.file.tensors or LONG_FACTORS in fields.file.tensors:
        if kind not in ("none", "longrope"):
            raise fields.fail("rope.scaling.type", f"longrope beside {SHORT_FACTORS} and {LONG_FACTORS}", kind)
        return _longrope(fields, dims)
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    attention = fields.number("rope.scaling.attn_factor", 1.0)
    if kind == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": fields.integer("rope.scaling.original_context_length"),
            "beta_fast": fields.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": fields.number("rope.scaling.yarn_beta_slow", 1.0),
        }
        if fields.get("rope.scaling.yarn_log_multiplier"):
            return scaling | _mscales(fields)
        # the one is Hugging Face's key, which replaces YaRN's own factor; by the other llama.cpp multiplies it
        own = fields.number("rope.scaling.yarn_attn_factor", 0.1 * math.log(max(factor, 1)) + 1)
        stated = attention != 1 or fields.get("rope.scaling.yarn_attn_factor") is not None
        return scaling | {"attention_factor": attention * own} if stated else scaling
    attention *= fields.number("rope.scaling.yarn_attn_factor", 1.0)
    if attention != 1:
        raise fields.fail("rope.scaling.attn_factor", f"1 for scaling type {kind}", attention)
    if kind == "linear" or (kind == "none" and fields.get("rope.scale_linear") is not None):
        return {"rope_type": "linear", "factor": factor}
    if kind != "none":
        raise fields.fail("rope.scaling.type", "none, linear or yarn", kind)
    return None


def _mscales(fields: GgufFields) -> dict[str, float]:
    """DeepSeek's two numbers, of which the file has the second; llama.cpp takes the first for 1."""
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"):
        if (factor := fields.number(key, 1.0)) != 1:
            raise fields.fail(key, "1 beside rope.scaling.yarn_log_multiplier", factor)
    return {"mscale": 1.0, "mscale_all_dim": fields.number("rope.scaling.yarn_log_multiplier")}


def _divisors(fields: GgufFields, name: str, dims: int) -> np.ndarray:
    """What each pair's frequency is divided by, float32 `[dims / 2]`."""
    tensor = fields.file.tensors.get(name)
    found = "nothing" if tensor is None else f"{tensor.kind} {list(tensor.shape)}"
    if tensor is None or tensor.kind != "F32" or tensor.shape != (dims // 2,):
        raise CheckpointError(f"{fields.file.path}: {name}: expected F32 [{dims // 2}], got {found}")
    return np.frombuffer(tensor.map, "<f4", dims // 2, tensor.start)


def _longrope(fields: GgufFields, dims: int) -> dict[str, Any]:
    """Phi's two sets. The file has the attention factor, where Hugging Face may have what it is made of."""
    short, long = (_divisors(fields, name, dims) for name in (SHORT_FACTORS, LONG_FACTORS))
    for name, divisors in ((SHORT_FACTORS, short), (LONG_FACTORS, long)):
        if not all(is_number("factor", divisor) for divisor in divisors.tolist()):
            raise CheckpointError(f"{fields.file.path}: {name}: expected each {number_expected('factor')}, got others")
    return {
        "rope_type": "longrope",
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "attention_factor": fields.number("rope.scaling.attn_factor", 1.0),
        "original_max_position_embeddings": fields.integer("rope.scaling.original_context_length"),
    }


def _divided(fields: GgufFields, dims: int) -> dict[str, Any]:
    """What `rope_freqs.weight` amounts to: proportional rope, where it leaves pairs as they are, or Llama 3's."""
    divisors = _divisors(fields, ROPE_FACTORS, dims)
    turning = int(np.sum(divisors == 1))
    if (
        0 < turning < len(divisors)
        and np.all(divisors[:turning] == 1)
        and np.all(divisors[turning:] == np.float32(STILL))
    ):
        return {"rope_type": "proportional", "partial_rotary_factor": turning / len(divisors)}
    return _llama3(fields, dims, divisors)


def _llama3(fields: GgufFields, dims: int, divisors: np.ndarray) -> dict[str, Any]:
    """Llama 3.1's scaling. The divisors do not tell the settings apart, so they are made again from Meta's published
    ones and held against the file."""
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
