"""What transformers' classes have where a `config.json` is silent: files are often written without it, and those of
models that see above all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GEMMA2 = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
}
_GEMMA4 = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
}
_GLM = {"num_key_value_heads": 2, "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-07}
_QWEN_DELTA = {"head_dim": 256, "num_key_value_heads": 2, "max_position_embeddings": 32768}
_QWEN2_VL = {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6}
_ERNIE = {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5}
DEFAULTS: dict[str, dict[str, Any]] = {
    "dots1": {"num_key_value_heads": 32},
    "ernie4_5": _ERNIE | {"num_key_value_heads": 2, "head_dim": 128},
    "ernie4_5_moe": _ERNIE | {"num_key_value_heads": 4},
    "exaone4": {"num_key_value_heads": 32, "rms_norm_eps": 1e-5},
    "hunyuan_v1_dense": {"rms_norm_eps": 1e-5},
    "minimax_m2": {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196608},
    "stablelm": {"num_key_value_heads": 32, "max_position_embeddings": 4096},
    "seed_oss": {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288},
    "gemma": {"head_dim": 256, "max_position_embeddings": 8192},
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2 | {"vocab_size": 262208, "max_position_embeddings": 131072},
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4
    | {"max_position_embeddings": 262144, "sliding_window": 1024, "hidden_size_per_layer_input": 0},
    "glm": _GLM,
    "glm4": _GLM,
    "glm4_moe": {"num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5},
    "glm4v_text": _GLM | {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0},
    "glm4v_moe_text": {
        "num_key_value_heads": 8,
        "max_position_embeddings": 65536,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
    },
    "gpt_oss": {
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "sliding_window": 128,
    },
    "lfm2": {"num_key_value_heads": 8},
    "lfm2_moe": {"num_key_value_heads": 8},
    "lfm3": {"num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 128000},
    "ministral": {"num_key_value_heads": 8},
    "ministral3": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
    },
    "mistral": {"num_key_value_heads": 8},
    "mixtral": {"num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5},
    "phi3": {"max_position_embeddings": 4096},
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen2_vl_text": _QWEN2_VL,
    "qwen3_5_text": _QWEN_DELTA | {"num_key_value_heads": 4},
    "qwen3_5_moe_text": _QWEN_DELTA,
    "qwen3_moe": {"num_key_value_heads": 4},
    "qwen3_next": _QWEN_DELTA,
    "qwen3_vl_text": {"max_position_embeddings": 128000, "rope_theta": 5e5},
    "qwen3_vl_moe_text": {
        "num_key_value_heads": 16,
        "max_position_embeddings": 128000,
        "rope_theta": 5e5,
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
    },
    "smollm3": {"num_key_value_heads": 4},
    "starcoder2": {"num_key_value_heads": 2},
}
"""By `model_type`, where they are not those that families share. Source: transformers' configuration classes."""


def with_defaults(config: Mapping[str, Any], model_type: object) -> dict[str, Any]:
    """A `config.json` with what its class has besides."""
    defaults = DEFAULTS.get(model_type, {}) if isinstance(model_type, str) else {}
    ropes = config.get("rope_parameters")
    if isinstance(ropes, Mapping):  # a second theta or share would contradict one there
        again = {"rope_theta", "partial_rotary_factor"} & ropes.keys()
        defaults = {field: value for field, value in defaults.items() if field not in again}
    return {**defaults, **config}
