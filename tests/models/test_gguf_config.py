"""GGUF metadata to a config: what is understood, and every key that would change the output refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.models.conftest import write_gguf
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.models.decoder.config import AttentionConfig, LayerConfig, MlpConfig, NormConfig, RopeConfig
from tinyllm.models.families.families import decoder_config
from tinyllm.models.open_model import open_model
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, inverse_frequencies


def scaling_of(path: Path) -> RopeScaling:
    rope = decoder_config(open_checkpoint(path).config).layers[0].attention.rope
    assert rope is not None
    return rope.scaling


def test_the_config_is_the_one_that_the_keys_state(tmp_path: Path) -> None:
    config = decoder_config(open_checkpoint(write_gguf(tmp_path / "m.gguf")).config)
    assert (config.family, config.vocab_size, config.hidden_size, config.max_position) == ("llama", 267, 64, 128)
    assert config.layers == (LayerConfig(AttentionConfig(4, 2, 16, RopeConfig(16, 10000.0)), MlpConfig(96)),) * 2
    assert config.norm == NormConfig(1e-5)
    assert (config.bos_token_id, config.eos_token_ids, config.tie_word_embeddings) == (265, (266,), True)


REFUSED: dict[str, dict[str, Any]] = {
    "attention.sliding_window": {"attention.sliding_window": 2.5},
    "expert_used_count": {"expert_count": 8},
    "attn_logit_softcapping": {"attn_logit_softcapping": 50.0},
    "final_logit_softcapping": {"final_logit_softcapping": 30.0},
    "attention.scale": {"attention.scale": 0.1},
    "attention.causal": {"attention.causal": False},
    "logit_scale": {"logit_scale": 0.5},
    "rope.dimension_count": {"rope.dimension_count": 32},
    "attention.value_length": {"attention.value_length": 8},
    "vocab_size": {"vocab_size": 300},
    "rope.scaling.type": {"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0},
    "rope.scaling.attn_factor": {
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 2.0,
        "rope.scaling.attn_factor": 2.0,
    },
    "rope.scaling.yarn_ext_factor": {"rope.scaling.yarn_ext_factor": 0.5},
    "attention.head_count": {"attention.head_count": [4, 4]},
    "feed_forward_length": {"feed_forward_length": [96, 64]},
    "block_count": {"block_count": 0},
    "attention.layer_norm_rms_epsilon": {"attention.layer_norm_rms_epsilon": -1.0},
    "rope.scaling.original_context_length": {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0},
    "some_new_key": {"some_new_key": [1, 2]},
    "split.count": {"split.count": 3},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_would_change_the_output_is_refused_by_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", keys=REFUSED[key]))


@pytest.mark.parametrize("pattern", [None, 0, [True], [1, 0], "all"], ids=str)
def test_a_window_of_unknown_layers_is_refused(tmp_path: Path, pattern: Any) -> None:
    stated = {} if pattern is None else {"attention.sliding_window_pattern": pattern}
    with pytest.raises(
        CheckpointError, match=r"qwen2\.attention\.sliding_window_pattern: expected a number, or a flag"
    ):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", "qwen2", keys={"attention.sliding_window": 8} | stated))


@pytest.mark.parametrize(
    "key", ["block_count", "embedding_length", "attention.layer_norm_rms_epsilon", "context_length"]
)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"llama\.{key}: expected .*, got nothing"):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", drop=(key,)))


@pytest.mark.parametrize(
    "keys", [{"attention.sliding_window": 0}, {"expert_count": 0}, {"attention.causal": True}, {"logit_scale": 1.0}]
)
def test_neutral_values_pass(tmp_path: Path, keys: dict[str, Any]) -> None:
    open_checkpoint(write_gguf(tmp_path / "m.gguf", keys=keys))


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"general.architecture: expected one of .*llama, .*qwen2.*, got 'bert'"):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", "bert"))
    latent = write_gguf(tmp_path / "m.gguf", "deepseek2", keys={"attention.kv_lora_rank": 512})
    part = r"attention.kv_lora_rank \(multi-head latent attention\)"
    with pytest.raises(CheckpointError, match=f"got 'deepseek2'; nearest is llama, .* its {part}; a plugin may add"):
        open_checkpoint(latent)


def test_linear_and_yarn_scaling(tmp_path: Path) -> None:
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    assert scaling_of(write_gguf(tmp_path / "a.gguf", keys=linear)) == RopeScaling("linear", factor=4.0)
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}
    assert scaling_of(write_gguf(tmp_path / "b.gguf", keys=yarn)) == RopeScaling(
        "yarn", factor=4.0, original_max_position=32
    )
    stronger = scaling_of(write_gguf(tmp_path / "c.gguf", keys=yarn | {"rope.scaling.attn_factor": 2.0}))
    assert stronger.attention_factor == pytest.approx(2 * (0.1 * math.log(4) + 1))
    stated = scaling_of(write_gguf(tmp_path / "d.gguf", keys=yarn | {"rope.scaling.yarn_attn_factor": 1.0}))
    assert stated.attention_factor == 1


def test_llama3_divisors_become_llama3_scaling(tmp_path: Path) -> None:
    """The divisors are what transformers divides its frequencies by; others are refused."""
    rope: dict[str, Any] = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 8192
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=4, rope_parameters=rope | {"rope_theta": 500000.0}
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** (-np.arange(0, 16, 2) / 16)
    divisors = (plain / scaled.numpy()).astype(np.float32)
    keys = {"rope.freq_base": 500000.0}
    got = scaling_of(write_gguf(tmp_path / "a.gguf", keys=keys, tensors={"rope_freqs.weight": divisors}))
    assert got == RopeScaling(
        "llama3", factor=32.0, original_max_position=8192, low_freq_factor=1.0, high_freq_factor=4.0
    )
    for wrong in (divisors * np.float32(1.1), divisors[:-1], np.arange(1, 9, dtype=np.float32)):
        with pytest.raises(CheckpointError, match=r"rope_freqs\.weight: expected"):
            open_checkpoint(write_gguf(tmp_path / "b.gguf", keys=keys, tensors={"rope_freqs.weight": wrong}))


def factors(first: float, last: float, pairs: int = 8) -> np.ndarray:
    return np.linspace(first, last, pairs, dtype=np.float32)


LONGROPE = {"rope_factors_short.weight": factors(1, 1.5), "rope_factors_long.weight": factors(1, 40)}


@pytest.mark.parametrize("kind", [{}, {"rope.scaling.type": "longrope"}])
def test_two_sets_of_divisors_become_longrope(tmp_path: Path, kind: dict[str, Any]) -> None:
    """As Phi's files have them: frequencies are transformers', and the file states the attention factor."""
    short, long = (LONGROPE[f"rope_factors_{name}.weight"].tolist() for name in ("short", "long"))
    rope = {"rope_type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 10000.0}
    rope["original_max_position_embeddings"] = 32
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=128, rope_parameters=rope
    )
    _, factor = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"))
    keys = {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": factor}
    scaling = scaling_of(write_gguf(tmp_path / "a.gguf", keys=keys | kind, tensors=LONGROPE))
    for length in (32, 33):
        theirs, _ = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=length)
        ours = inverse_frequencies(16, 10000.0, scaling, length)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
    assert attention_factor(scaling, 33) == pytest.approx(factor, rel=1e-6)
    model = open_model(tmp_path / "a.gguf")
    assert not any("rope" in name for name in model.checkpoint.tensor_names())


@pytest.mark.parametrize(
    ("tensors", "keys", "said"),
    [
        (
            {"rope_factors_short.weight": factors(1, 2)},
            {},
            r"rope_factors_long\.weight: expected F32 \[8\], got nothing",
        ),
        (
            LONGROPE | {"rope_factors_long.weight": factors(1, 2, 7)},
            {},
            r"rope_factors_long\.weight: expected F32 \[8\]",
        ),
        (
            LONGROPE | {"rope_factors_long.weight": factors(-1, 2)},
            {},
            r"rope_factors_long\.weight: expected each a number",
        ),
        (LONGROPE, {"rope.scaling.type": "yarn"}, r"rope\.scaling\.type: expected longrope beside"),
        (LONGROPE, {"rope.scaling.original_context_length": 0}, r"original_context_length: expected a positive"),
    ],
)
def test_other_divisors_are_refused(tmp_path: Path, tensors: dict[str, Any], keys: dict[str, Any], said: str) -> None:
    keys = {"rope.scaling.original_context_length": 32} | keys
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors=tensors, keys=keys))


def test_divisors_that_leave_pairs_as_they_are_become_proportional_rope(tmp_path: Path) -> None:
    """As Gemma 4's files have it."""
    divisors = np.asarray([1.0, 1.0, *[1e30] * 6], np.float32)
    scaling = scaling_of(write_gguf(tmp_path / "a.gguf", tensors={"rope_freqs.weight": divisors}))
    assert scaling == RopeScaling("proportional", partial_rotary_factor=0.25)
    plain = inverse_frequencies(16)
    np.testing.assert_allclose(inverse_frequencies(16, 10000.0, scaling), plain / divisors, atol=1e-29)


def test_biases_of_family_llama_show_in_the_config(tmp_path: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.arange(64, dtype=np.float32)}
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors=bias))
    assert checkpoint.config["attention_bias"] is True
    assert checkpoint.config["mlp_bias"] is False
    model = open_model(tmp_path / "m.gguf")
    weights = model.weights({"model.layers.0.self_attn.q_proj.bias": (64,)})
    assert weights.read("model.layers.0.self_attn.q_proj.bias")[:4].tolist() == [0, 2, 4, 6]
