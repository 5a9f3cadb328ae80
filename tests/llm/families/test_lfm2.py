"""LFM2: short convolutions beside attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import AttentionConfig, MlpConfig, MoeConfig, ShortConvConfig
from tinyllm.models.families.families import decoder_config
from tinyllm.models.open_model import open_model

KINDS = ["conv", "full_attention", "conv"]
EXPERTS: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MODELS = {
    "tied": Tiny("Lfm2", {"layer_types": KINDS, "block_multiple_of": 8}),
    "bias-wide": Tiny(
        "Lfm2",
        {
            "layer_types": KINDS[1:],
            "num_hidden_layers": 2,
            "conv_bias": True,
            "conv_L_cache": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "experts": Tiny("Lfm2Moe", EXPERTS | {"layer_types": KINDS, "num_dense_layers": 1, "routed_scaling_factor": 1.7}),
    "experts-unbiased": Tiny(
        "Lfm2Moe",
        EXPERTS
        | {
            "layer_types": KINDS[1:],
            "num_hidden_layers": 2,
            "num_dense_layers": 0,
            "use_expert_bias": False,
            "norm_topk_prob": False,
        },
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in ["numpy"] if model == "experts-unbiased" else backends():
        assert_is_the_judges(tmp_path, judge, backend)


def test_a_gguf_file_is_the_folder(tmp_path: Path) -> None:
    judge = MODELS["tied"].save(tmp_path)
    kv_heads = [0 if kind == "conv" else judge.config.num_key_value_heads for kind in KINDS]
    keys = {
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": judge.config.norm_eps,
        "feed_forward_length": judge.model.layers[0].feed_forward.w1.weight.shape[0],
        "shortconv.l_cache": 3,
        "rope.freq_base": 1e6,
    }

    def squeezed(name: str, tensor: Any) -> Any:
        return tensor[:, 0] if name.endswith("conv.conv.weight") else tensor

    assert_same_logits(tmp_path, write_gguf(tmp_path, "lfm2", keys, squeezed))


@pytest.mark.parametrize("model", ["experts", "experts-unbiased"])
def test_a_gguf_file_with_experts_is_the_folder(model: str, tmp_path: Path) -> None:
    config = MODELS[model].save(tmp_path).config
    keys = {
        "attention.head_count_kv": [0 if kind == "conv" else 2 for kind in config.layer_types],
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "shortconv.l_cache": 3,
        "leading_dense_block_count": config.num_dense_layers,
        "expert_count": 5,
        "expert_used_count": 2,
        "expert_feed_forward_length": 24,
        "expert_gating_func": 2,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_weights_scale": config.routed_scaling_factor,
    }

    def changed(name: str, tensor: Any) -> dict[str, Any]:
        for theirs, ours in {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.items():
            name = name.replace(f"feed_forward.experts.{theirs}", f"mlp.experts.{ours}")
        tensor = tensor[:, 0] if name.endswith("conv.conv.weight") else tensor
        return {name.replace("expert_bias", "expert_bias.bias"): tensor}

    assert_same_logits(tmp_path, write_gguf(tmp_path, "lfm2moe", keys, changed))
    keys["expert_gating_func"] = 1
    with pytest.raises(CheckpointError, match=r"lfm2moe\.expert_gating_func: expected 2, the sigmoid, got 1"):
        open_model(write_gguf(tmp_path, "lfm2moe", keys, changed))


def test_own_config_with_experts_is_understood_whole() -> None:
    """All but the kinds of its layers, which it leaves to be stated."""
    config = transformers.Lfm2MoeConfig(layer_types=["conv", "full_attention"] * 16).to_dict()
    experts = MoeConfig(1792, 32, 4, "sigmoid", correction_bias=True)
    assert [layer.mlp for layer in decoder_config(config).layers[:3]] == [MlpConfig(7168), MlpConfig(7168), experts]
    for field in ("layer_types", "num_dense_layers", "use_expert_bias"):
        with pytest.raises(CheckpointError, match=f"config: {field}: expected"):
            decoder_config(config | {field: -1})
    with pytest.raises(CheckpointError, match="config: layer_types: expected conv or full_attention for each of 32"):
        decoder_config(config | {"layer_types": None})


def test_transformers_own_config_is_understood_whole() -> None:
    config = transformers.Lfm2Config(full_attn_idxs=[2, 5])
    made = decoder_config(config.to_dict())
    attends = [isinstance(layer.attention, AttentionConfig) for layer in made.layers]
    assert [number for number, whether in enumerate(attends) if whether] == [2, 5]
    assert made.layers[0].attention == ShortConvConfig(3)
    assert made.layers[0].mlp == MlpConfig(8192) and made.tie_word_embeddings and made.norm.eps == 1e-5
    old = {name: value for name, value in config.to_dict().items() if name != "layer_types"}
    assert decoder_config(old) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["conv"]},
        {"layer_types": ["mamba"] * 32},
        {"layer_types": None, "full_attn_idxs": "2"},
        {"conv_L_cache": 0},
        {"norm_eps": 0},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"config: ({'|'.join(changes)})"):
        decoder_config(transformers.Lfm2Config().to_dict() | changes)
