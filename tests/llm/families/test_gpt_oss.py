"""gpt-oss."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import AttentionConfig, MoeConfig
from tinyllm.models.families.families import decoder_config
from tinyllm.models.open_model import open_model

ROPE = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 24,
    "rope_theta": 150.0,
}
# Numbers are clamped at 1.2, which many reach. Rows of 64 and 32 are whole groups of MXFP4.
TINY = Tiny(
    "GptOss",
    {
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "hidden_size": 64,
        "intermediate_size": 32,
        "head_dim": 12,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "sliding_window": 11,
        "max_position_embeddings": 96,
        "rope_parameters": ROPE,
        "swiglu_limit": 1.2,
    },
)
PARTS = ("gate_up_proj", "down_proj")


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)


def converted(name: str, tensor: Any) -> dict[str, Any]:
    """As llama.cpp's converter has them."""
    return {f"{name}.weight": tensor} if name.endswith("sinks") else _apart(name, tensor)


def test_a_gguf_file_is_the_folder(tmp_path: Path) -> None:
    """It knows no other limit than that of the models that were published."""
    replace(TINY, config=TINY.config | {"swiglu_limit": 7.0}, spread=0.3).save(tmp_path)
    keys = {
        "expert_count": 5,
        "expert_used_count": 2,
        "expert_feed_forward_length": 32,
        "feed_forward_length": 32,
        "rope.scaling.yarn_beta_fast": 32.0,
    }

    assert_same_logits(tmp_path, write_gguf(tmp_path, "gpt-oss", keys, converted))


def test_gates_and_ups_may_lie_apart(tmp_path: Path) -> None:
    """As mlx-lm writes them."""
    together, apart = tmp_path / "together", tmp_path / "apart"
    TINY.save(together)
    apart.mkdir()
    shutil.copy(together / "config.json", apart)
    tensors = load_file(together / "model.safetensors")
    made = {name: np.ascontiguousarray(part) for key in tensors for name, part in _apart(key, tensors[key]).items()}
    save_file(made, apart / "model.safetensors")
    assert_same_logits(together, apart)


def _apart(name: str, tensor: Any) -> dict[str, Any]:
    stem, dot, part = name.rpartition("experts.")
    if not dot:
        return {name: tensor}
    part, ending = (part.removesuffix("_bias"), ".bias") if part.endswith("_bias") else (part, ".weight")
    tensor = tensor if ending == ".bias" else tensor.swapaxes(1, 2)
    if part == "down_proj":
        return {f"{stem}experts.down_proj{ending}": tensor}
    return {f"{stem}experts.{each}{ending}": tensor[:, turn::2] for turn, each in enumerate(("gate_proj", "up_proj"))}


def test_packed_experts_are_what_transformers_unpacks(tmp_path: Path) -> None:
    """The folders that OpenAI published, whose experts are kept in 4 bits."""
    floats, packed = tmp_path / "floats", tmp_path / "packed"
    TINY.save(floats)
    tensors = load_file(floats / "model.safetensors")
    rng = np.random.default_rng(0)
    blocks: dict[str, Any] = {}
    for name in [name for name in tensors if name.endswith(PARTS)]:
        experts, columns, rows = tensors[name].shape
        octets = rng.integers(0, 256, (experts, rows, columns // 32, 16), np.uint8)
        exponents = rng.integers(122, 125, octets.shape[:3], np.uint8)
        blocks |= {f"{name}_blocks": octets, f"{name}_scales": exponents}
        unpacked = convert_moe_packed_tensors(torch.tensor(octets), torch.tensor(exponents), dtype=torch.float32)
        tensors[name] = unpacked.numpy()
    save_file(tensors, floats / "model.safetensors", {"format": "pt"})
    packed.mkdir()
    others = {name: tensor for name, tensor in tensors.items() if not name.endswith(PARTS)}
    save_file(others | blocks, packed / "model.safetensors")
    config = json.loads((floats / "config.json").read_text())
    left_out = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": left_out}
    (packed / "config.json").write_text(json.dumps(config))
    assert_same_logits(floats, packed)
    judge = transformers.GptOssForCausalLM.from_pretrained(floats, dtype="float32").eval()
    assert_is_the_judges(packed, judge, "numpy")
    stacks = {f"model.layers.0.mlp.experts.{name}_proj.weight": (5, 32, 64) for name in ("gate", "up")}
    weights = open_model(packed).weights(stacks)
    assert {weights.info(name).dtype for name in stacks} == {"mxfp4"}


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("GptOss"))
    attends = [layer.attention for layer in made.layers if isinstance(layer.attention, AttentionConfig)]
    assert [attention.window for attention in attends[:3]] == [128, None, 128]
    assert all(each.sinks and each.qkv_bias and each.o_bias for each in attends)
    choice: dict[str, Any] = {"score": "softmax_of_chosen", "normalize": False, "router_bias": True}
    experts = MoeConfig(2880, 128, 4, **choice, expert_bias=True, limit=7.0, alpha=1.702, up_offset=1.0)
    assert {layer.mlp for layer in made.layers} == {experts}
    rope = attends[0].rope
    assert rope is not None and (rope.theta, rope.scaling.factor, rope.scaling.truncate) == (150000, 32, False)


def test_openais_names_beside_transformers_must_agree() -> None:
    theirs = {"experts_per_token": 4, "initial_context_length": 4096}
    assert decoder_config(own_config("GptOss", **theirs)) == decoder_config(own_config("GptOss"))
    with pytest.raises(CheckpointError, match="config: experts_per_token: expected 4, got 8"):
        decoder_config(own_config("GptOss", experts_per_token=8))


@pytest.mark.parametrize(
    "changes",
    [{"swiglu_limit": 0}, {"swiglu_alpha": -1}, {"sliding_window": 0}, {"hidden_act": "gelu"}, {"layer_types": 3}],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("GptOss"), changes, ": expected")
