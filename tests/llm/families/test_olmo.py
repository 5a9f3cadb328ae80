"""OLMo 2 and 3, and OLMoE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends, registry
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.llm import load
from tinyllm.models.decoder.config import MoeConfig
from tinyllm.models.families.families import decoder_config

YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 300.0}
ROPES = {
    "full_attention": YARN | {"attention_factor": 1.4},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
STRETCHED = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
    "rope.freq_base": 300.0,
    "rope.freq_base_swa": 100.0,
}
MODELS: dict[str, tuple[Tiny, dict[str, Any]]] = {
    "olmo2": (Tiny("Olmo2", {"num_hidden_layers": 2, "attention_bias": True, "tie_word_embeddings": True}), {}),
    "olmo3": (
        Tiny(
            "Olmo3",
            {
                "hidden_size": 42,
                "num_attention_heads": 7,
                "num_key_value_heads": 7,
                "num_hidden_layers": 4,
                "sliding_window": 9,
                "max_position_embeddings": 64 * 4,
                "rope_parameters": ROPES,
            },
        ),
        STRETCHED | {"rope.scaling.yarn_attn_factor": 1.4},
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    tiny, keys = MODELS[model]
    judge = tiny.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "olmo2", keys))
    if "rope.scaling.yarn_attn_factor" in keys:  # older files have it under another key
        older = STRETCHED | {"rope.scaling.attn_factor": 1.4}
        assert_same_logits(tmp_path, write_gguf(tmp_path, "olmo2", older))
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.post_feedforward_layernorm.weight"
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        load(tmp_path, "numpy", registry=registry())


def test_transformers_own_configs_are_understood_whole() -> None:
    two, three = (decoder_config(own_config(kind)) for kind in ("Olmo2", "Olmo3"))
    assert {layer.attention.window for layer in two.layers} == {None} and two.norm.eps == three.norm.eps == 1e-5
    assert [layer.attention.window for layer in three.layers] == [4096, 4096, 4096, None] * 8


def test_ropes_of_olmo3_in_the_form_of_before() -> None:
    """Stretched where layers see everything alone."""
    stretched = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}
    old = own_config("Olmo3") | {"rope_parameters": None, "rope_theta": 500000.0, "rope_scaling": stretched}
    ropes = [layer.attention.rope for layer in decoder_config(old).layers]
    assert [rope.scaling.kind for rope in ropes[:4] if rope] == ["default"] * 3 + ["yarn"]
    assert {rope.theta for rope in ropes if rope} == {500000.0}


@pytest.mark.parametrize("kind", ["Olmo2", "Olmo3"])
@pytest.mark.parametrize(
    "changes",
    [{"hidden_act": "gelu"}, {"layer_types": ["chunked_attention"] * 32}, {"clip_qkv": 8.0}, {"rms_norm_eps": 0}],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(kind: str, changes: dict[str, Any]) -> None:
    assert_refused(own_config(kind), changes)


@pytest.mark.parametrize("normalize", [False, True])
def test_experts_are_the_judges(normalize: bool, tmp_path: Path) -> None:
    experts = {"num_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    judge = Tiny("Olmoe", experts | {"norm_topk_prob": normalize}).save(tmp_path)
    for backend in ["numpy"] if normalize else backends():
        assert_is_the_judges(tmp_path, judge, backend)
    if not normalize:  # as files have it
        assert_same_logits(tmp_path, write_gguf(tmp_path, "olmoe", {"expert_count": 5, "expert_used_count": 2}))


def test_the_own_config_of_olmoe_is_understood_whole() -> None:
    made = decoder_config(own_config("Olmoe"))
    assert made.layers[0].mlp == MoeConfig(2048, 64, 8, normalize=False) and made.norm.eps == 1e-5
    with pytest.raises(CheckpointError, match="config: clip_qkv"):
        decoder_config(own_config("Olmoe", clip_qkv=8.0))
