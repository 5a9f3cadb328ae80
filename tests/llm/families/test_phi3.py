"""Phi-3."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends, registry
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.llm import load
from tinyllm.models.families.families import decoder_config

MODELS = {
    "three-heads-window": Tiny(
        "Phi3", {"num_attention_heads": 3, "num_key_value_heads": 1, "sliding_window": 11, "pad_token_id": 0}
    ),
    "partial-tied": Tiny(
        "Phi3",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75},
            "tie_word_embeddings": True,
            "num_key_value_heads": 6,
        },
    ),
    "longrope": Tiny(
        "Phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.1, 1.3],
                "long_factor": [1.5, 2.5, 4.0],
            },
            "original_max_position_embeddings": 64,
        },
    ),
}


def keys_of(rope: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """What llama.cpp's converter writes of a rope."""
    keys: dict[str, Any] = {"rope.dimension_count": int(rope["partial_rotary_factor"] * head_dim)}
    if rope["rope_type"] == "longrope":
        keys["rope.scaling.original_context_length"] = 64
        keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(256 / 64) / math.log(64))
    return keys


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    rope = judge.config.rope_parameters
    extra = {
        f"rope_factors_{length}.weight": np.asarray(rope[f"{length}_factor"], np.float32)
        for length in ("short", "long")
        if f"{length}_factor" in rope
    }
    keys = keys_of(rope, judge.model.layers[0].self_attn.head_dim)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "phi3", keys, extra=extra))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("partial_rotary_factor", 0.2, "a share that is an even number"),
        ("sliding_window", 0, "a positive integer"),
        ("lm_head_bias", True, "False"),
    ],
)
def test_fields_out_of_range_are_named(field: str, value: object, expected: str) -> None:
    with pytest.raises(CheckpointError, match=f"config: {field}: expected {expected}"):
        decoder_config(own_config("Phi3", rope_parameters=None, **{field: value}))


def test_transformers_own_config_is_understood_whole() -> None:
    layers = set(decoder_config(own_config("Phi3")).layers)
    assert [(layer.attention.window, layer.mlp.size) for layer in layers] == [(None, 8192)]


def test_a_file_with_half_of_its_factors_is_named(tmp_path: Path) -> None:
    MODELS["longrope"].save(tmp_path)
    factors = {"rope_factors_long.weight": np.ones(3, np.float32)}
    path = write_gguf(tmp_path, "phi3", {"rope.dimension_count": 6}, extra=factors)
    with pytest.raises(CheckpointError, match=r"rope_factors_short.weight: expected F32 \[3\], got nothing"):
        load(path, "numpy", registry=registry())


def test_a_merged_tensor_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    MODELS["partial-tied"].save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.self_attn.qkv_proj.weight"]
    merged = "model.layers.0.mlp.gate_up_proj.weight"
    tensors[merged] = tensors[merged][:-1]
    save_file(tensors, tmp_path / "model.safetensors")
    missing = re.escape("missing model.layers.1.self_attn.qkv_proj.weight;")
    wrong = re.escape(f"wrong shape {merged} (expected [160, 48], got [159, 48])")
    with pytest.raises(CheckpointError, match=f"{missing} {wrong}"):
        load(tmp_path, "numpy", registry=registry())
