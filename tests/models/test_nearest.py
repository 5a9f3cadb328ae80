"""What is said of a model that no family is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import transformers

from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.families import FAMILIES, decoder_config
from tinyllm.models.families.family import Family


def llama(**changes: Any) -> dict[str, Any]:
    """A config that Llama's could be."""
    config: dict[str, Any] = transformers.LlamaConfig(num_hidden_layers=2).to_dict()
    return config | changes


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("DeepseekV3", r"nearest is glm4_moe, .* its kv_lora_rank \(multi-head latent attention\), q_lora_rank, .*"),
        ("Llama4", r"nearest is \w+, .* its attention_chunk_size \(attention within chunks\), .*"),
        ("Mamba2", r"the decoder has no means for its state_size \(state-space layers\)"),
        ("Falcon", "none is near it"),
    ],
)
def test_what_stands_between_a_model_and_the_nearest_family_is_named(kind: str, part: str) -> None:
    config = getattr(transformers, f"{kind}Config")().to_dict()
    with pytest.raises(CheckpointError, match=f"got '{config['model_type']}'; {part}; a plugin may add") as caught:
        decoder_config(config)
    assert len(str(caught.value).splitlines()) == 1
    assert not re.search("did you mean|set it to|change model_type", str(caught.value), re.IGNORECASE)


def test_only_what_sets_a_config_apart_is_named() -> None:
    """A field that nobody has, and one with a value that nobody has; what a family knows is not in the way."""
    own = llama(model_type="own", value_residual=0.5, hidden_act="relu2", attention_bias=True)
    with pytest.raises(CheckpointError, match=r"nearest is llama, .* understand its hidden_act and value_residual;"):
        decoder_config(own)
    many = {f"own_{number}": 1 for number in range(99)}
    with pytest.raises(CheckpointError, match="own_11 and 87 more; a plugin"):
        decoder_config(llama(model_type="own", **many))
    seeing = {"model_type": "own_vl", "text_config": transformers.Qwen3Config().to_dict()}
    with pytest.raises(CheckpointError, match="its fields are all known to qwen3,"):
        decoder_config(seeing)


def test_a_plugins_family_that_fails_is_not_near() -> None:
    def broken(config: Mapping[str, Any]) -> DecoderConfig:
        raise ZeroDivisionError

    with pytest.raises(CheckpointError, match="all known to llama"):
        decoder_config(llama(model_type="own"), (Family("broken", ("broken",), broken), *FAMILIES))
