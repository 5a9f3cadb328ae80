"""Mixtral."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import AttentionConfig, MoeConfig
from tinyllm.models.families.families import decoder_config

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


def test_fields_are_understood_or_named() -> None:
    layer = decoder_config(own_config("Mixtral")).layers[0]
    assert layer.mlp == MoeConfig(14336, 8, 2)
    assert isinstance(layer.attention, AttentionConfig) and layer.attention.window is None
    for field, value in {"num_local_experts": 0, "num_experts_per_tok": 9, "sliding_window": 0}.items():
        with pytest.raises(CheckpointError, match=f"config: {field}: expected"):
            decoder_config(own_config("Mixtral", **{field: value}))
