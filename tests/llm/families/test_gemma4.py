"""Gemma 4: its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends, registry
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.catalogue import CATALOGUE
from tinyllm.errors import CheckpointError
from tinyllm.llm import load
from tinyllm.models.decoder.config import AttentionConfig, MlpConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families.families import decoder_config
from tinyllm.models.open_model import open_model

LOCAL, GLOBAL = "sliding_attention", "full_attention"
ROPES = {
    GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 5000.0},
    LOCAL: {"rope_type": "default", "rope_theta": 100.0},
}
SIZES: dict[str, Any] = {
    "hidden_size": 44,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "global_head_dim": 14,
    "sliding_window": 11,
    "rope_parameters": ROPES,
    "hidden_size_per_layer_input": 0,
}
INPUTS = {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 97}
SHARED: dict[str, Any] = {
    "num_hidden_layers": 5,
    "layer_types": [LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": 3.0,
}
EXPERTS: dict[str, Any] = {
    "layer_types": [LOCAL, LOCAL, GLOBAL],
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 2,
    "enable_moe_block": True,
    "num_experts": 5,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
}
MODELS = {
    "shared": Tiny("Gemma4", SIZES | INPUTS | SHARED, "Gemma4TextConfig"),
    "experts": Tiny("Gemma4", SIZES | EXPERTS, "Gemma4TextConfig"),
    "both": Tiny("Gemma4", SIZES | INPUTS | EXPERTS | SHARED | {"attention_bias": True}, "Gemma4TextConfig"),
    "unified": Tiny(
        "Gemma4Unified",
        SIZES | SHARED | {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "tie_word_embeddings": False},
        "Gemma4UnifiedTextConfig",
    ),
}
EVERYWHERE = ("shared", "experts")
"""Those whose features are all there are, held on every backend."""


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends() if model in EVERYWHERE else ["numpy"]:
        assert_is_the_judges(tmp_path, judge, backend)


def gguf_keys(config: Any) -> dict[str, Any]:
    """What the converter writes of a config beside what all families share."""
    slides = [kind == LOCAL for kind in config.layer_types]
    shared, wide = config.num_kv_shared_layers, config.use_double_wide_mlp
    own = len(slides) - shared
    keys = {
        "attention.key_length": 14,
        "attention.value_length": 14,
        "attention.key_length_swa": 10,
        "attention.value_length_swa": 10,
        "rope.dimension_count": 14,
        "rope.dimension_count_swa": 10,
        "rope.freq_base": ROPES[GLOBAL]["rope_theta"],
        "rope.freq_base_swa": ROPES[LOCAL]["rope_theta"],
        "attention.sliding_window_pattern": slides,
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "final_logit_softcapping": config.final_logit_softcapping,
    }
    if wide:
        keys["feed_forward_length"] = [80 * (1 + (number >= own)) for number in range(len(slides))]
    if config.attention_k_eq_v:
        keys["attention.head_count_kv"] = [3 if slide else 2 for slide in slides]
    if config.enable_moe_block:
        keys |= {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 24}
    return keys


def as_the_converter_names_it(name: str, tensor: Any) -> dict[str, Any]:
    """Scales are told from weights by their endings, which some tensors lack in folders."""
    for theirs, ending in {"router.scale": "router.proj.scale", "router.per_expert_scale": "experts.down_proj.scale"}.items():
        name = name.replace(theirs, ending)
    return {name if name.endswith((".weight", ".bias", ".scale")) else f"{name}.weight": tensor}


TURNS = np.array([1.0] * 3 + [1e30] * 4, np.float32)
"""Of half of the 7 pairs, rounded down."""


def write_ours(folder: Path, config: Any, **keys: Any) -> Path:
    """The folder as a GGUF file; keys: instead of those that the converter writes."""
    extra = {"rope_freqs.weight": TURNS}
    return write_gguf(folder, "gemma4", gguf_keys(config) | keys, as_the_converter_names_it, extra)


@pytest.mark.parametrize("model", ["shared", "experts", "both"])
def test_a_gguf_file_is_the_folder(model: str, tmp_path: Path) -> None:
    config = MODELS[model].save(tmp_path).config
    assert_same_logits(tmp_path, write_ours(tmp_path, config))
