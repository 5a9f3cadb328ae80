"""Gemma 1, 2 and 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tests.models.conftest import write_gguf as write_any_gguf
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.models.families.families import decoder_config

WINDOWED = {"sliding_window": 11, "hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16}
MODELS = {
    "gemma": Tiny(
        "Gemma", {"head_dim": 10, "num_attention_heads": 7, "num_key_value_heads": 7, "num_hidden_layers": 2}
    ),
    "gemma2": Tiny(
        "Gemma2",
        WINDOWED | {"query_pre_attn_scalar": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": Tiny(
        "Gemma3",
        WINDOWED
        | {
            "query_pre_attn_scalar": 5,
            "num_hidden_layers": 3,
            "sliding_window_pattern": 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
        "Gemma3TextConfig",
    ),
}
KEYS: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "attention.scale": 5**-0.5},
    "gemma3": {
        "attention.scale": 5**-0.5,
        "attention.sliding_window_pattern": 2,
        "rope.freq_base": 5000.0,
        "rope.freq_base_swa": 100.0,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 4.0,
    },
}


def norms_plus_one(name: str, tensor: Any) -> Any:
    """As llama.cpp's converter has them."""
    return tensor + np.float32(1) if name.endswith("norm.weight") else tensor


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, model, KEYS[model], norms_plus_one))


@pytest.mark.parametrize("kind", ["Gemma", "Gemma2", "Gemma3Text"])
def test_transformers_own_config_is_understood_whole(kind: str) -> None:
    made = decoder_config(own_config(kind))
    windows = [layer.attention.window for layer in made.layers]
    pattern = {"Gemma": [None], "Gemma2": [4096, None], "Gemma3Text": [4096] * 5 + [None]}[kind]
    assert windows == (pattern * len(windows))[: len(windows)]
    assert made.tie_word_embeddings and made.norm.offset == 1


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        ("Gemma", "use_bidirectional_attention", True, "False"),
        ("Gemma2", "attn_logit_softcapping", -1.0, "a number above 0"),
        ("Gemma2", "query_pre_attn_scalar", 0, "a number above 0"),
        ("Gemma3Text", "sliding_window", None, "a positive integer"),
    ],
)
def test_fields_out_of_range_are_named(kind: str, field: str, value: object, expected: str) -> None:
    with pytest.raises(CheckpointError, match=f"config: {field}: expected {expected}"):
        decoder_config(own_config(kind, **{field: value}))


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_gguf_files_of_27b_scale_scores_otherwise(architecture: str, layers: int, tmp_path: Path) -> None:
    """By the root of a head's share of the hidden size, which is 16 here, and not of its own size, which is 8."""
    keys = {"attention.key_length": 8, "attention.value_length": 8, "rope.dimension_count": 8}
    for count, wanted in ((layers, 16), (layers - 1, 8)):
        path = write_any_gguf(tmp_path / f"{count}.gguf", architecture, keys=keys | {"block_count": count})
        assert open_checkpoint(path).config["query_pre_attn_scalar"] == pytest.approx(wanted)


def test_fields_that_published_files_have_besides() -> None:
    """They say again what others say, or are refused."""
    besides = {"hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 4096, "cache_implementation": "hybrid"}
    assert decoder_config(own_config("Gemma2", **besides)) == decoder_config(own_config("Gemma2"))
    with pytest.raises(CheckpointError, match="config: sliding_window: expected 2048, got 4096"):
        decoder_config(own_config("Gemma2", sliding_window_size=2048))
