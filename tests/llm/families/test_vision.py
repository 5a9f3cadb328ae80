"""Models that read pictures: their text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import registry
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.cli.session import load_model
from tinyllm.errors import CheckpointError
from tinyllm.llm import load
from tinyllm.models.families.families import decoder_config

_QWEN = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48}
TOWER = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
MODELS = {
    "gemma3": Tiny(
        "Gemma3",
        {"head_dim": 16, "sliding_window": 11, "num_hidden_layers": 2, "sliding_window_pattern": 2},
        vision=TOWER | {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
        whole={"mm_tokens_per_image": 4},
    ),
    "mistral3": Tiny(
        "Mistral3",
        {"model_type": "mistral", "head_dim": 10, "num_hidden_layers": 2, "sliding_window": None},
        vision=TOWER | {"model_type": "pixtral", "head_dim": 8},
        whole={"tie_word_embeddings": False},
    ),
    "ministral3": Tiny(
        "Mistral3",
        {
            "model_type": "ministral3",
            "head_dim": 10,
            "num_hidden_layers": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 16.0,
                "original_max_position_embeddings": 16,
                "llama_4_scaling_beta": 0.4,
            },
        },
        vision=TOWER | {"model_type": "pixtral", "head_dim": 8},
        whole={"tie_word_embeddings": False},
    ),
    "qwen2_vl": Tiny(
        "Qwen2VL",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [1, 1, 2]},
            "num_hidden_layers": 2,
        },
        vision={"depth": 1, "embed_dim": 16, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": Tiny(
        "Qwen2_5_VL",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [1, 1, 2]},
            "num_hidden_layers": 2,
        },
        vision=_QWEN,
    ),
    "qwen3_vl": Tiny(
        "Qwen3VL",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500.0,
                "mrope_section": [2, 2, 2],
                "mrope_interleaved": True,
            },
            "head_dim": 12,
            "num_hidden_layers": 2,
        },
        vision=_QWEN | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        whole={"tie_word_embeddings": True},
    ),
    "qwen3_vl_moe": Tiny(
        "Qwen3VLMoe",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 2, 2]},
            "head_dim": 12,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "mlp_only_layers": [1],
        },
        vision=_QWEN | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        whole={"tie_word_embeddings": False},
    ),
    "lfm2_vl": Tiny(
        "Lfm2Vl",
        {"model_type": "lfm2", "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8},
        vision=TOWER | {"model_type": "siglip2_vision_model", "patch_size": 4, "num_patches": 16},
        whole={"projector_hidden_size": 16, "tie_word_embeddings": True},
    ),
    "glm4v": Tiny(
        "Glm4v",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [1, 1],
            },
            "num_hidden_layers": 2,
        },
        vision=_QWEN | {"image_size": 28, "patch_size": 14},
    ),
    "glm4v_moe": Tiny(
        "Glm4vMoe",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [1, 1],
            },
            "num_hidden_layers": 2,
            "n_routed_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "routed_scaling_factor": 1.7,
        },
        vision=_QWEN | {"image_size": 28, "patch_size": 14},
    ),
    "internvl": Tiny(
        "InternVL",
        {"model_type": "qwen3", "head_dim": 12, "num_hidden_layers": 2},
        vision=TOWER | {"image_size": [28, 28], "patch_size": [14, 14]},
        whole={"tie_word_embeddings": False},
    ),
    "internvl-experts": Tiny(
        "InternVL",
        {
            "model_type": "qwen3_moe",
            "head_dim": 12,
            "num_hidden_layers": 2,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
        },
        vision=TOWER | {"image_size": [28, 28], "patch_size": [14, 14]},
        whole={"tie_word_embeddings": False},
    ),
    "lfm3_vl": Tiny(
        "Lfm3Vl",
        {
            "model_type": "lfm3",
            "layer_types": ["conv", "sliding_attention", "full_attention"],
            "head_dim": 12,
            "sliding_window": 9,
        },
        vision=TOWER | {"model_type": "lfm3_vl_vision", "patch_size": 4, "num_key_value_heads": 2},
        whole={"projector_hidden_size": 16, "tie_word_embeddings": True},
    ),
}


def is_of_pictures(name: str) -> bool:
    """Whether a tensor belongs to the tower or to what leads from it."""
    return any(part in name for part in ("visual", "vision", "projector", "audio"))


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    assert_text_is_the_judges(MODELS[model], tmp_path)


def assert_text_is_the_judges(model: Tiny, folder: Path) -> None:
    judge = model.save(folder)
    assert_is_the_judges(folder, judge, "numpy")  # the decoders themselves are held on all backends
    names = load_file(folder / "model.safetensors")
    skipped = load(folder, "numpy", registry=registry()).skipped_tensors
    assert set(filter(is_of_pictures, names)) - set(skipped) == set()
    assert all(is_of_pictures(name) or name.endswith("lm_head.weight") for name in skipped)
    _assert_all_names_are_one(folder, names)


def _assert_all_names_are_one(folder: Path, names: Mapping[str, Any]) -> None:
    """The decoder is found under each of the names that such files have for it."""
    decoders = {"language_model.model.": "language_model.", "model.language_model.": "", "model.": ""}
    for prefix, of_head in decoders.items():
        other = folder / prefix
        other.mkdir()
        (other / "config.json").write_text((folder / "config.json").read_text())
        renamed = {}
        for name, tensor in names.items():
            inner = name.replace("language_model.", "").removeprefix("model.")
            ours = of_head + inner if inner.startswith("lm_head") else prefix + inner
            renamed[name if is_of_pictures(name) else ours] = tensor
        save_file(renamed, other / "model.safetensors")
        assert_same_logits(folder, other)


def test_stacks_of_experts_are_found_either_way_round(tmp_path: Path) -> None:
    """The published files of Qwen3-VL have them as they stood in memory once, transposed."""
    MODELS["qwen3_vl_moe"].save(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    turned = tmp_path / "turned"
    turned.mkdir()
    (turned / "config.json").write_text((tmp_path / "config.json").read_text())
    stacks = {name: np.ascontiguousarray(t.swapaxes(1, 2)) for name, t in names.items() if ".experts." in name}
    assert stacks
    save_file(names | stacks, turned / "model.safetensors")
    assert_same_logits(tmp_path, turned)


@pytest.mark.parametrize(
    ("model", "architecture"), [("qwen2_5_vl", "qwen2vl"), ("qwen3_vl", "qwen3vl"), ("qwen3_vl_moe", "qwen3vlmoe")]
)
def test_a_gguf_file_has_the_decoder_alone(model: str, architecture: str, tmp_path: Path) -> None:
    tiny = MODELS[model]
    if model == "qwen3_vl_moe":  # a file knows no dense layers between
        tiny = replace(tiny, config=tiny.config | {"mlp_only_layers": []})
    config = tiny.save(tmp_path).config.to_dict()
    names = load_file(tmp_path / "model.safetensors")
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text(json.dumps(config["text_config"]))
    of_text = {name.replace("language_model.", ""): t for name, t in names.items() if not is_of_pictures(name)}
    save_file(of_text, text / "model.safetensors")
    keys = {"rope.dimension_sections": [2, 2, 2, 0], "n_deepstack_layers": 1}
    if model == "qwen3_vl_moe":
        keys |= {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 20}
    assert_same_logits(tmp_path, write_gguf(text, architecture, keys, _apart))


def _apart(name: str, tensor: Any) -> Any:
    """Gates and ups of experts in a tensor each, with the ending that a GGUF file wants."""
    if ".experts." not in name:
        return tensor
    names = ["gate_proj", "up_proj"] if "gate_up" in name else ["down_proj"]
    parts = np.split(tensor, len(names), 1)
    return {f"{name.rpartition('.')[0]}.{own}.weight": part for own, part in zip(names, parts, strict=True)}


def test_a_config_without_a_text_config_is_one_itself() -> None:
    """As the first files of Qwen2.5-VL have it."""
    new = MODELS["qwen2_5_vl"].theirs.to_dict()
    old = {key: value for key, value in new.items() if key != "text_config"}
    assert decoder_config(new["text_config"] | old) == decoder_config(new)


@pytest.mark.parametrize(
    "kind",
    ["Gemma3", "Mistral3", "Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Qwen3VLMoe", "Glm4v", "InternVL", "Lfm2Vl", "Lfm3Vl"],
)
def test_transformers_own_config_is_understood_whole(kind: str) -> None:
    config = own_config(kind)
    assert decoder_config(config).hidden_size == config["text_config"]["hidden_size"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"text_config": {"model_type": "bert"}}, "text_config.model_type: expected 'qwen2_5_vl_text', got 'bert'"),
        ({"text_config": 3}, "text_config: expected an object, got 3"),
        ({"talker_config": {}}, "talker_config: tinyllm does not know this field"),
    ],
)
def test_what_is_no_text_is_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError, match=f"config: {expected}"):
        decoder_config(own_config("Qwen2_5_VL", **changes))


def test_a_tensor_that_is_there_twice_is_named(tmp_path: Path) -> None:
    MODELS["qwen2_5_vl"].save(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    twice = {"model.language_model.norm.weight": names["model.norm.weight"].copy()}
    save_file(names | twice, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="are the same tensor of a decoder"):
        load(tmp_path, "numpy", registry=registry())


def test_loading_says_that_pictures_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MODELS["qwen2_5_vl"].save(tmp_path)
    pictures = sum(map(is_of_pictures, load_file(tmp_path / "model.safetensors")))
    capsys.readouterr()
    load_model(str(tmp_path), "numpy", None, None, None)
    assert f"text alone: {pictures} tensors that read pictures or sounds are skipped" in capsys.readouterr().err
