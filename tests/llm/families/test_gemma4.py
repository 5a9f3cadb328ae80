"""Gemma 4: its text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends, registry
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tests.llm.families.test_vision import TOWER, assert_text_is_the_judges
from tinyllm.catalogue import CATALOGUE
from tinyllm.errors import CheckpointError
from tinyllm.llm import load
from tinyllm.models.decoder.config import MlpConfig
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
MANY: dict[str, Any] = {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 24}
EXPERTS: dict[str, Any] = MANY | {
    "layer_types": [LOCAL, LOCAL, GLOBAL],
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 2,
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
VISION = {
    "gemma4": Tiny(
        "Gemma4",
        SIZES | INPUTS | SHARED,
        vision=TOWER | {"num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16},
        whole={"audio_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}},
    ),
    "gemma4_unified": Tiny(
        "Gemma4Unified",
        SIZES,
        vision={"mm_embed_dim": 16, "mm_posemb_size": 16, "output_proj_dims": 44},
        whole={"audio_config": {"audio_embed_dim": 16}},
    ),
}
EVERYWHERE = ("shared", "experts")
"""Those whose features are all there are, held on every backend."""


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends() if model in EVERYWHERE else ["numpy"]:
        assert_is_the_judges(tmp_path, judge, backend)


@pytest.mark.parametrize("model", VISION)
def test_the_text_of_what_sees_and_hears_is_the_judges(model: str, tmp_path: Path) -> None:
    assert_text_is_the_judges(VISION[model], tmp_path)


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
    name = name.replace("router.scale", "router.proj.scale")
    name = name.replace("router.per_expert_scale", "experts.down_proj.scale")
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


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"rope.dimension_count": 12}, "rope.dimension_count: expected the head size 14, got 12"),
        ({"rope.dimension_count_swa": 8}, "rope.dimension_count_swa: expected the head size 10, got 8"),
        ({"attention.value_length_swa": 14}, "attention.value_length_swa: expected the head size 10, got 14"),
        ({"rope.freq_base_swa": None}, "rope.freq_base_swa: expected a number above 0"),
        ({"feed_forward_length": [80, 80, 80, 80, 160]}, "feed_forward_length: expected 80 or"),
        ({"feed_forward_length": [80]}, "feed_forward_length: expected a positive integer for each of 5 layers"),
        ({"attention.shared_kv_layers": 1.5}, "attention.shared_kv_layers: expected an integer"),
        ({"altup.num_inputs": 4}, "altup.num_inputs: tinyllm does not know this key"),
    ],
    ids=str,
)
def test_keys_that_do_not_fit_are_named(keys: dict[str, Any], expected: str, tmp_path: Path) -> None:
    config = MODELS["shared"].save(tmp_path).config
    with pytest.raises(CheckpointError, match=re.escape(f"gemma4.{expected}")):
        open_model(write_ours(tmp_path, config, **keys))


def test_layers_that_read_the_keys_and_values_of_others_have_no_cache() -> None:
    made = decoder_config(MODELS["shared"].theirs.to_dict())
    assert [layer.attention.kv_layer for layer in made.layers] == [None, None, None, 2, 1]
    states = decoder(made, CATALOGUE).states
    assert {*states} == {f"model.layers.{number}.self_attn.{name}" for number in range(3) for name in "kv"}
    assert [layer.mlp.size for layer in made.layers] == [80] * 3 + [160] * 2


def test_keys_and_values_that_nothing_reads_are_skipped(tmp_path: Path) -> None:
    """Files may have them for all layers."""
    MODELS["shared"].save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    names = [f"model.layers.3.self_attn.{name}.weight" for name in ("k_proj", "v_proj", "k_norm")]
    of_layer_2 = [tensors[name.replace("layers.3", "layers.2")].copy() for name in names]
    save_file(tensors | dict(zip(names, of_layer_2, strict=True)), tmp_path / "model.safetensors")
    assert {*names} <= {*load(tmp_path, "numpy", registry=registry()).skipped_tensors}


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("Gemma4Text"))
    local, last = made.layers[0].attention, made.layers[-1].attention
    assert (local.head_dim, local.window, last.head_dim, last.window) == (256, 512, 512, None)
    assert made.layer_input is not None and made.layer_input.size == 256
    assert made.tie_word_embeddings and made.layers[0].mlp == MlpConfig(9216, "gelu_tanh")


def test_sizes_of_heads_are_stated_by_field_or_by_layer() -> None:
    """Published files have the fields; transformers writes what they amount to."""
    fields = {"attention_k_eq_v": True, "num_global_key_value_heads": 2, "global_head_dim": 64}
    stated = own_config("Gemma4Text") | fields
    del stated["per_layer_config"]
    written = transformers.Gemma4TextConfig(**fields).to_dict()
    assert written["per_layer_config"]["29"] == {"head_dim": 64, "num_key_value_heads": 2}
    assert decoder_config(stated) == decoder_config(written)
    alone = decoder_config(stated | {"attention_k_eq_v": False})  # then the number of heads is that of all layers
    assert {layer.attention.num_kv_heads for layer in alone.layers} == {4}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention: expected 'vision', got 'all'"),
        ({"layer_types": [LOCAL] * 30}, "layer_types: expected full_attention for the last layer"),
        ({"per_layer_config": {"30": {"head_dim": 8}}}, "per_layer_config: expected head_dim and num_key_value_heads"),
        ({"per_layer_config": {"29": {"sliding_window": 8}}}, "per_layer_config: expected head_dim and"),
        ({"per_layer_config": {"29": 8}}, "per_layer_config: expected objects by the numbers of layers, got 8"),
        ({"per_layer_config": {"29": {"head_dim": 8}}}, "per_layer_config: expected the same for all layers of full_"),
        ({"per_layer_config": None, "global_head_dim": 0}, "global_head_dim: expected a positive integer"),
        ({"num_kv_shared_layers": 25}, "num_kv_shared_layers: expected a layer of each kind"),
        ({"num_kv_shared_layers": -1}, "num_kv_shared_layers: expected an integer from 0"),
        ({"hidden_size_per_layer_input": -1}, "hidden_size_per_layer_input: expected an integer from 0"),
        ({"vocab_size_per_layer_input": 5}, "vocab_size_per_layer_input: expected 262144, got 5"),
        ({"final_logit_softcapping": -1.0}, "final_logit_softcapping: expected a number above 0"),
        (MANY | {"top_k_experts": 6}, "top_k_experts: expected at most the 5 experts, got 6"),
        (MANY | {"hidden_activation": "gelu"}, "hidden_activation: expected gelu_pytorch_tanh or silu for experts"),
        ({"enable_moe_block": "yes"}, "enable_moe_block: expected true or false"),
        ({"laurel_rank": 64}, "laurel_rank: tinyllm does not know this field"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError, match=f"config: {expected}"):
        decoder_config(own_config("Gemma4Text", **changes))
