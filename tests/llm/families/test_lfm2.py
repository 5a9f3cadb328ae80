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
from tinyllm.models.decoder.config import AttentionConfig, MlpConfig, ShortConvConfig
from tinyllm.models.families.families import decoder_config

KINDS = ["conv", "full_attention", "conv"]
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
        },
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
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
