"""LFM3: short convolutions beside attention whose heads are gated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.decoder.config import AttentionConfig, ShortConvConfig
from tinyllm.models.families.families import decoder_config

KINDS = ["conv", "sliding_attention", "full_attention"]
TINY = Tiny(
    "Lfm3",
    {
        "layer_types": KINDS,
        "head_dim": 12,
        "sliding_window": 9,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "proportional", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
    },
)
PLAIN = replace(
    TINY,
    config=TINY.config
    | {
        "use_sandwich_norm": False,
        "use_attention_gate": False,
        "attention_bias": True,
        "conv_bias": True,
        "conv_L_cache": 4,
        "tie_word_embeddings": False,
    },
)


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_text((tmp_path / "config.json").read_text())
    names = load_file(tmp_path / "model.safetensors")
    gates = {".self_attn.gate_proj.", ".self_attn.g_proj."}
    own = next(gate for gate in gates if any(gate in name for name in names))
    (other,) = gates - {own}
    save_file({name.replace(own, other): tensor for name, tensor in names.items()}, published / "model.safetensors")
    assert_same_logits(tmp_path, published)


def test_without_gates_and_norms_after_and_with_biases(tmp_path: Path) -> None:
    judge = PLAIN.save(tmp_path)
    assert_is_the_judges(tmp_path, judge, "numpy")


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("Lfm3"))
    assert [layer.norms for layer in made.layers] == ["both"] * 24 and made.tie_word_embeddings
    conv, _, full, _, slides = (layer.attention for layer in made.layers[:5])
    assert conv == ShortConvConfig(7)
    assert isinstance(full, AttentionConfig) and isinstance(slides, AttentionConfig)
    assert (full.window, slides.window, full.gated, slides.gated) == (None, 256, "head", "head")
    assert full.rope is not None and full.rope.scaling.kind == "proportional"
    assert decoder_config(own_config("Lfm3", rope_parameters=None, layer_types=None)) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["conv"]},
        {"layer_types": ["mamba"] * 24},
        {"conv_L_cache": 0},
        {"sliding_window": 0},
        {"use_attention_gate": 1},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"block_ff_dim": 3},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("Lfm3"), changes)
