"""Mixtral."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.catalogue import CATALOGUE
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import AttentionConfig, MoeConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families.families import decoder_config
from tinyllm.models.open_model import open_model

TINY = Tiny(
    "Mixtral",
    {
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "intermediate_size": 24,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "num_hidden_layers": 2,
        "sliding_window": 11,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
)


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)

    def renamed(name: str, tensor: Any) -> dict[str, Any]:
        for theirs, ours in {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.items():
            name = name.replace(f"block_sparse_moe.experts.{theirs}", f"mlp.experts.{ours}")
        return {name: by_neighbours(16)(name, tensor)}

    keys = {"expert_count": 5, "expert_used_count": 3}
    assert_same_logits(tmp_path, write_gguf(tmp_path, "llama", keys, renamed))


@pytest.mark.parametrize("apart", [False, True], ids=["gates and ups in one", "apart"])
def test_experts_in_one_tensor_are_those_in_many(apart: bool, tmp_path: Path) -> None:
    """As transformers has them in memory, and as mlx-lm writes them."""
    many, one = tmp_path / "many", tmp_path / "one"
    TINY.save(many)
    one.mkdir()
    shutil.copy(many / "config.json", one)
    tensors = load_file(many / "model.safetensors")
    made = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(2):
        module = f"model.layers.{layer}.block_sparse_moe"
        gate, down, up = (
            np.stack([tensors[f"{module}.experts.{expert}.w{part}.weight"] for expert in range(5)])
            for part in (1, 2, 3)
        )
        if apart:
            stacks = {"gate_proj": gate, "down_proj": down, "up_proj": up}
            made |= {f"{module}.switch_mlp.{name}.weight": stack for name, stack in stacks.items()}
        else:
            made |= {f"{module}.experts.gate_up_proj": np.concatenate([gate, up], axis=1)}
            made |= {f"{module}.experts.down_proj": down}
    save_file(made, one / "model.safetensors")
    assert_same_logits(many, one)


def test_the_first_gguf_files_have_a_tensor_for_each_expert(tmp_path: Path) -> None:
    """Which may be quantized in different ways: the same layer's experts by turns."""
    replace(TINY, config=TINY.config | {"hidden_size": 96, "intermediate_size": 32}).save(tmp_path)
    kinds = [gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q4_0", "F32", "F16", "Q5_1")]
    single: dict[str, Any] = {}
    stacks: dict[str, list[Any]] = {}

    def taken(name: str, tensor: Any) -> dict[str, Any]:
        of_expert = re.search(r"layers\.(\d)\.block_sparse_moe\.experts\.w(\d)", name)
        if of_expert is None:
            return {name: by_neighbours(32)(name, tensor)}
        layer, part = of_expert.groups()
        part = {"1": "gate", "2": "down", "3": "up"}[part]
        for expert, numbers in enumerate(tensor):
            kind = kinds[expert if layer == "1" else 0]
            blocks = gguf.quants.quantize(numbers, kind)
            single[f"blk.{layer}.ffn_{part}.{expert}.weight"] = blocks, kind
            stacks.setdefault(f"blk.{layer}.ffn_{part}_exps.weight", []).append(gguf.quants.dequantize(blocks, kind))
        return {}

    keys = {"expert_count": 5, "expert_used_count": 3}
    write_gguf(tmp_path, "llama", keys, taken)
    floats = {name: np.stack(stack) for name, stack in stacks.items()}
    stacked = write_gguf(tmp_path, "llama", keys, taken, floats).rename(tmp_path / "stacked.gguf")
    apart = write_gguf(tmp_path, "llama", keys, taken, single)
    for backend in backends():
        assert_same_logits(stacked, apart, backend)
    opened = open_model(apart)
    weights = opened.weights(decoder(opened.config, CATALOGUE).tensors())
    types = [weights.info(f"model.layers.{layer}.mlp.experts.up_proj.weight").dtype for layer in range(2)]
    assert types == ["q8_0", "float32"]


def test_fields_are_understood_or_named() -> None:
    layer = decoder_config(own_config("Mixtral")).layers[0]
    assert layer.mlp == MoeConfig(14336, 8, 2)
    assert isinstance(layer.attention, AttentionConfig) and layer.attention.window is None
    for field, value in {"num_local_experts": 0, "num_experts_per_tok": 9, "sliding_window": 0}.items():
        with pytest.raises(CheckpointError, match=f"config: {field}: expected"):
            decoder_config(own_config("Mixtral", **{field: value}))
