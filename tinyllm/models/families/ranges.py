"""The ranges that numbers of a model's files are held to before anything is made of them.

They are far wider than those of any model, and narrow enough that sizes fit 64 bits, frequencies float64, and graphs
are made within seconds. `config.json` and GGUF's metadata, which is brought into its form, go by the same.
"""

from __future__ import annotations

from typing import Any, TypeGuard

LARGEST = 2**31 - 1
"""Of sizes and positions, which ops count in int32."""
_SIZE = (1, LARGEST)
_SCALE = (1e-6, 1e6)
# By the names that `config.json` has; a number that is not among them is a size.
_RANGES: dict[str, tuple[float, float]] = {
    "num_hidden_layers": (1, 1000),
    "max_window_layers": (0, LARGEST),
    "first_k_dense_replace": (0, LARGEST),
    "num_dense_layers": (0, LARGEST),
    "num_nextn_predict_layers": (0, LARGEST),
    "shared_intermediate_size": (0, LARGEST),
    "num_kv_shared_layers": (0, LARGEST),
    "hidden_size_per_layer_input": (0, LARGEST),
    "rms_norm_eps": (1e-30, 1),
    "layer_norm_eps": (1e-30, 1),
    "norm_epsilon": (1e-30, 1),
    "logit_scale": _SCALE,
    "rope_theta": (1 + 1e-6, 1e18),
    "rope_local_base_freq": (1 + 1e-6, 1e18),
    "partial_rotary_factor": (1e-6, 1),
    "factor": _SCALE,
    "low_freq_factor": _SCALE,
    "high_freq_factor": _SCALE,
    "beta_fast": _SCALE,
    "beta_slow": _SCALE,
    "attention_factor": _SCALE,
    "mscale": _SCALE,
    "mscale_all_dim": _SCALE,
    "llama_4_scaling_beta": (0, 1e6),
    "short_mscale": _SCALE,
    "long_mscale": _SCALE,
    "alpha": _SCALE,
    "embedding_multiplier": _SCALE,
    "residual_multiplier": _SCALE,
    "attention_multiplier": _SCALE,
    "logits_scaling": _SCALE,
    "attn_logit_softcapping": _SCALE,
    "final_logit_softcapping": _SCALE,
    "routed_scaling_factor": _SCALE,
    "swiglu_alpha": _SCALE,
    "swiglu_limit": _SCALE,
    "norm_eps": (1e-30, 1),
    "block_ffn_dim_multiplier": _SCALE,
    "token id": (0, LARGEST),
}


def is_integer(field: str, value: Any) -> TypeGuard[int]:
    """Whether a value is an integer in the range of its field."""
    return isinstance(value, int) and is_number(field, value)


def is_number(field: str, value: Any) -> TypeGuard[float]:
    """Whether a value is a number in the range of its field; NaN and the infinities are in none."""
    low, high = _RANGES.get(field, _SIZE)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def integer_expected(field: str) -> str:
    """What is expected of an integer, for a message."""
    low, high = _RANGES.get(field, _SIZE)
    return f"a positive integer up to {high}" if low else f"an integer from 0 to {high}"


def number_expected(field: str) -> str:
    """What is expected of a number, for a message."""
    low, high = _RANGES.get(field, _SIZE)
    return f"a number {'above 0, ' if low else ''}from {low:g} to {high:g}"
