"""Qwen3-Next and Qwen3.5: a state that goes from token to token, beside gated attention."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import AttentionConfig, GatedDeltaConfig, MoeConfig
from tinyllm.models.families.families import decoder_config
from tinyllm.models.open_model import open_model

VALUE_DIM = 5
DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": VALUE_DIM,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
MODELS = {
    "next": Tiny("Qwen3Next", DELTA | EXPERTS | {"mlp_only_layers": [2]}),
    "3.5-bias": Tiny(
        "Qwen3_5",
        DELTA | {"attention_bias": True, "tie_word_embeddings": True},
        config_class="Qwen3_5TextConfig",
    ),
    "3.5-moe": Tiny(
        "Qwen3_5Moe",
        DELTA | EXPERTS | {"layer_types": DELTA["layer_types"][:2], "num_hidden_layers": 2},
        config_class="Qwen3_5MoeTextConfig",
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)


KEYS: dict[str, Any] = {
    "rope.dimension_count": 4,
    "full_attention_interval": 2,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 8,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 6,
    "ssm.inner_size": 6 * VALUE_DIM,
}
EXPERT_KEYS = {
    "expert_count": 5,
    "expert_used_count": 2,
    "expert_feed_forward_length": 24,
    "expert_shared_feed_forward_length": 40,
}


def converted(name: str, tensor: Any) -> dict[str, Any]:
    """As llama.cpp's converter changes all of them: norms with the 1 added, rates of forgetting as they are used."""
    if name.endswith("norm.weight") and "linear_attn" not in name:
        tensor = tensor + 1
    if name.endswith("conv1d.weight"):
        tensor = tensor[:, 0]
    if name.endswith("A_log"):
        tensor = -np.exp(tensor)
    stem = name.removesuffix(".gate_up_proj")
    if stem != name:  # of experts
        return {
            f"{stem}.{part}": each for part, each in zip(("gate_proj", "up_proj"), np.split(tensor, 2, 1), strict=True)
        }
    return {name.replace(".dt_bias", ".dt_proj.bias"): tensor}


def apart(name: str, tensor: Any) -> dict[str, Any]:
    """Qwen3-Next's merged projection, which lies head by head, as queries, keys and values, and gates."""
    if not name.endswith("in_proj_qkvz.weight"):
        return converted(name, tensor)
    of_heads = np.split(tensor.reshape(2, -1, 48), np.cumsum([8, 8, 3 * VALUE_DIM]), axis=1)
    *qkv, z = (each.reshape(-1, 48) for each in of_heads)
    stem = name.removesuffix("qkvz.weight")
    return {f"{stem}qkv.weight": np.concatenate(qkv), f"{stem}z.weight": z}


def by_turns(name: str, tensor: Any) -> dict[str, Any]:
    """Qwen3.5's 6 heads of values by turns of the 2 of keys, after 32 rows of queries and keys."""
    size = 1 if re.search(r"in_proj_[ab]|A_log|dt_bias", name) else VALUE_DIM
    if name.endswith("linear_attn.out_proj.weight"):
        tensor = tensor.reshape(-1, 2, 3, size).swapaxes(1, 2).reshape(tensor.shape)
    elif "linear_attn" in name and "norm" not in name:
        keys = 32 if re.search("qkv|conv1d", name) else 0
        values = tensor[keys:].reshape(2, 3, size, -1).swapaxes(0, 1).reshape(tensor[keys:].shape)
        tensor = np.concatenate([tensor[:keys], values])
    return converted(name, tensor)


def write_converted(model: str, folder: Path, **keys: Any) -> Path:
    """The folder of one of `MODELS`, and the GGUF file beside it."""
    tiny = MODELS[model]
    if "mlp_only_layers" in tiny.config:  # there is no such file
        tiny = replace(tiny, config=tiny.config | {"mlp_only_layers": []})
    tiny.save(folder)
    experts = EXPERT_KEYS if "num_experts" in tiny.config else {}
    architecture = {"next": "qwen3next", "3.5-moe": "qwen35moe"}.get(model, "qwen35")
    sections = {} if model == "next" else {"rope.dimension_sections": [1, 1, 0, 0]}
    return write_gguf(folder, architecture, KEYS | sections | experts | keys, apart if model == "next" else by_turns)


@pytest.mark.parametrize("model", MODELS)
def test_a_gguf_file_is_the_folder(model: str, tmp_path: Path) -> None:
    path = write_converted(model, tmp_path)
    for backend in backends():
        assert_same_logits(tmp_path, path, backend)


def test_qwen3_next_s_first_files_have_the_projection_as_it_lies_in_folders(tmp_path: Path) -> None:
    write_converted("next", tmp_path)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "qwen3next", KEYS | EXPERT_KEYS, converted))


def test_gates_and_ups_of_experts_may_lie_in_one_tensor(tmp_path: Path) -> None:
    write_converted("3.5-moe", tmp_path)

    def fused(name: str, tensor: Any) -> dict[str, Any]:
        return {name: tensor} if name.endswith("gate_up_proj") else by_turns(name, tensor)

    keys = KEYS | EXPERT_KEYS
    assert_same_logits(tmp_path, write_gguf(tmp_path, "qwen35moe", keys, fused))


def test_layers_that_draft_are_counted_and_skipped(tmp_path: Path) -> None:
    write_converted("3.5-moe", tmp_path)
    drafting = {"blk.2.nextn.eh_proj.weight": np.ones((48, 96), np.float32)}
    keys = KEYS | EXPERT_KEYS | {"nextn_predict_layers": 1, "block_count": 3, "feed_forward_length": None}
    assert_same_logits(tmp_path, write_gguf(tmp_path, "qwen35moe", keys, by_turns, drafting))
    with pytest.raises(CheckpointError, match=r"qwen35moe.ssm.inner_size: expected a multiple of the 6 heads, got 31"):
        open_model(write_gguf(tmp_path, "qwen35moe", keys | {"ssm.inner_size": 31}, by_turns, drafting))


def test_transformers_own_configs_are_understood_whole() -> None:
    made = decoder_config(transformers.Qwen3NextConfig().to_dict())
    attends = [isinstance(layer.attention, AttentionConfig) for layer in made.layers]
    assert [number for number, whether in enumerate(attends) if whether] == list(range(3, 48, 4))
    assert made.layers[0].attention == GatedDeltaConfig(16, 32, 128, 128, 4)
    assert made.layers[0].mlp == MoeConfig(512, 512, 10, shared_size=512, shared_gate=True)
    attention = made.layers[3].attention
    assert isinstance(attention, AttentionConfig) and attention.rope is not None and attention.gated == "whole"
    assert (attention.rope.dims, attention.head_dim) == (64, 256)
    for kind in (transformers.Qwen3_5TextConfig, transformers.Qwen3_5MoeTextConfig):
        assert decoder_config(kind().to_dict()).norm.offset == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["linear_attention"]},
        {"layer_types": ["mamba"] * 48},
        {"linear_num_value_heads": 17},
        {"linear_conv_kernel_dim": 0},
        {"num_experts_per_tok": 513},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(transformers.Qwen3NextConfig().to_dict(), changes, ": expected")
