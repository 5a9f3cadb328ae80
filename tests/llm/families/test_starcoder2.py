"""StarCoder2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import MlpConfig, NormConfig
from tinyllm.models.families.families import decoder_config

MODELS = {
    "window": Tiny("Starcoder2", {"num_hidden_layers": 2, "sliding_window": 9}),
    "without-biases-untied": Tiny(
        "Starcoder2",
        {
            "use_bias": False,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 56,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "num_hidden_layers": 2,
            "tie_word_embeddings": False,
        },
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "starcoder2"))


def test_configs_are_understood_whole() -> None:
    """transformers' own, and the fields that the first files have beside it."""
    made, exact = (decoder_config(own_config("Starcoder2", **some)) for some in ({}, {"hidden_act": "gelu"}))
    assert exact.layers[0].mlp == MlpConfig(12288, "gelu", True, gated=False)  # too near for logits to tell
    assert made.layers[0].mlp == MlpConfig(12288, "gelu_tanh", True, gated=False)
    assert made.norm == NormConfig(1e-5, "layer", bias=True) and made.tie_word_embeddings
    first = {
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "mlp_type": "default",
        "norm_type": "layer_norm",
    }
    assert decoder_config(own_config("Starcoder2") | first | {"scale_attn_weights": True}) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_epsilon": 0},
        {"use_bias": None, "mlp_bias": True},
        {"hidden_act": "relu"},
        {"norm_type": "rms_norm"},
        {"sliding_window": -1},
        {"layer_types": ["sliding_attention"] * 30},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    *_, field = changes
    with pytest.raises(CheckpointError, match=f"config: {field}"):
        decoder_config(own_config("Starcoder2") | changes)
