"""config.json to DecoderConfig: transformers' own configs pass whole, and what is not understood is refused by name."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tinyllm.errors import CheckpointError, TinyllmError
from tinyllm.models.checkpoints.checkpoint import check_tensors
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    LayerConfig,
    MlpConfig,
    NormConfig,
    RopeConfig,
)
from tinyllm.models.families.config_fields import HARMLESS
from tinyllm.models.families.families import FAMILIES, decoder_config
from tinyllm.models.families.family import Family
from tinyllm.spec.rope import RopeScaling

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 1.2}


def base(**changes: Any) -> dict[str, Any]:
    """A Llama config in transformers 4's form."""
    return {
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "eos_token_id": [2, 7],
    } | changes


def scaling_of(config: DecoderConfig) -> RopeScaling:
    """The scaling of a config whose layers all have one rope."""
    (rope,) = {layer.attention.rope for layer in config.layers}
    assert rope is not None
    return rope.scaling


@pytest.mark.parametrize("kind", [transformers.LlamaConfig, transformers.Qwen2Config])
def test_transformers_own_configs_are_understood_whole(kind: Any) -> None:
    theirs = kind()
    ours = decoder_config(theirs.to_dict())
    assert ours.family == theirs.model_type
    assert (ours.vocab_size, ours.hidden_size, ours.num_layers) == (
        theirs.vocab_size,
        theirs.hidden_size,
        theirs.num_hidden_layers,
    )
    assert (ours.max_position, ours.norm) == (theirs.max_position_embeddings, NormConfig(theirs.rms_norm_eps))
    head_dim = theirs.hidden_size // theirs.num_attention_heads
    rope = RopeConfig(head_dim, theirs.rope_parameters["rope_theta"])
    attention = AttentionConfig(theirs.num_attention_heads, theirs.num_key_value_heads, head_dim, rope)
    attention = replace(attention, qkv_bias=theirs.model_type == "qwen2")
    assert set(ours.layers) == {LayerConfig(attention, MlpConfig(theirs.intermediate_size))}
    assert not ours.tie_word_embeddings


@pytest.mark.parametrize("rope", [LLAMA3, YARN, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "default"}])
def test_old_and_new_rope_fields_mean_the_same(rope: dict[str, Any]) -> None:
    old = decoder_config(base(rope_scaling=rope))
    new = decoder_config(
        {
            key: value
            for key, value in base(rope_parameters=rope | {"rope_theta": 50000.0}).items()
            if key != "rope_theta"
        }
    )
    assert old == new
    scaling = scaling_of(old)
    assert scaling.kind == rope["rope_type"]
    assert scaling.factor == rope.get("factor", 1.0)
    assert scaling.original_max_position == rope.get("original_max_position_embeddings")
    written = transformers.LlamaConfig(**base(rope_scaling=dict(rope), bos_token_id=None)).to_dict()
    assert decoder_config(written) == old
    legacy = {("type" if key == "rope_type" else key): value for key, value in rope.items()}
    assert decoder_config(base(rope_scaling=legacy)) == old


def test_yarn_without_its_original_length_takes_the_configs() -> None:
    got = scaling_of(decoder_config(base(rope_scaling={"type": "yarn", "factor": 4.0})))
    assert (got.original_max_position, got.factor) == (128, 4.0)


def test_biases_and_tied_embeddings_follow_the_fields() -> None:
    made = decoder_config(base(attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=32))
    attention, mlp = made.layers[0].attention, made.layers[0].mlp
    assert (attention.qkv_bias, attention.o_bias, attention.head_dim) == (True, True, 32)
    assert isinstance(mlp, MlpConfig) and mlp.bias and made.tie_word_embeddings
    assert made.eos_token_ids == (2, 7)
    assert decoder_config(base(eos_token_id=None)).eos_token_ids == ()


REFUSED: list[dict[str, Any]] = [
    {"hidden_act": "gelu"},
    {"pretraining_tp": 2},
    {"rope_interleaved": True},
    {"partial_rotary_factor": 0.5},
    {"quantization_config": {"quant_method": "awq"}},
    {"num_experts": 8},
    {"sliding_window": 64},
    {"layer_types": ["full_attention", "sliding_attention"]},
    {"layer_types": ["full_attention"]},
    {"num_key_value_heads": 3},
    {"head_dim": 15},
    {"hidden_size": 66},
    {"hidden_size": -1},
    {"hidden_size": "64"},
    {"vocab_size": None},
    {"vocab_size": True},
    {"rms_norm_eps": 0},
    {"rms_norm_eps": float("nan")},
    {"tie_word_embeddings": "yes"},
    {"eos_token_id": "2"},
    {"rope_theta": -1},
    {"rope_scaling": {"rope_type": "axial", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "linear"}},
    {"rope_scaling": {"rope_type": "linear", "factor": 0}},
    {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "alpha": 3}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    {"rope_scaling": [2]},
    {"rope_parameters": {"rope_theta": 1.0}},
    {"a_new_field": 1},
    {"use_qk_norm": False},
]


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    field = next(iter(changes))
    inner = {"rope_scaling": "rope|partial", "rope_parameters": "rope_theta"}.get(field, field)
    with pytest.raises(CheckpointError, match=rf"config: ({inner})") as caught:
        decoder_config(base(**changes))
    assert "\n" not in str(caught.value)


@given(
    field=st.text(min_size=1, max_size=100),
    value=st.one_of(st.integers(), st.text(), st.booleans(), st.floats(), st.lists(st.integers())),
)
def test_any_field_passes_harmlessly_or_is_refused(field: str, value: Any) -> None:
    plain = decoder_config(base())
    if field in base() or field in HARMLESS:
        return
    try:
        assert decoder_config(base(**{field: value})) == plain
    except TinyllmError as error:
        assert field in str(error)


VALUES = st.one_of(st.none(), st.integers(), st.text(), st.booleans(), st.lists(st.integers()))


@given(st.dictionaries(st.sampled_from([*base(), "rope_scaling", "rope_parameters", "layer_types"]), VALUES))
def test_wrong_kinds_are_errors_of_ours(changes: dict[str, Any]) -> None:
    with contextlib.suppress(TinyllmError):
        decoder_config(base(**changes))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}},
        {"max_sequence_length": 64, "model_max_length": 64, "max_seq_length": 64, "seq_length": 64},
        {"attn_implementation": "eager", "_flash_attn_2_enabled": True, "use_flash_attention_2": True},
        {"_model_name_or_path": "a/b", "unk_token_id": 0},
        {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "hidden_dropout_prob": 0.1, "gradient_checkpointing": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_that_change_no_number_are_let_be(family: str, fields: dict[str, Any]) -> None:
    """transformers computes the same with them and without."""
    assert decoder_config(base(model_type=family, **fields)) == decoder_config(base(model_type=family))


def test_a_null_field_says_nothing() -> None:
    assert decoder_config(base(sliding_window=None, a_new_field=None)) == decoder_config(base())


def test_an_unknown_model_type_is_told_what_there_is_and_a_third_family_is_a_few_lines() -> None:
    with pytest.raises(CheckpointError, match=r"model_type: expected one of .*llama.*, got 'lama'; .*tinyllm_families"):
        decoder_config(base(model_type="lama"))
    third = Family("third", ("third",), lambda config: decoder_config({**config, "model_type": "llama"}))
    assert decoder_config(base(model_type="third"), (*FAMILIES, third)) == decoder_config(base())


def test_missing_surplus_and_misshapen_tensors_are_named(tiny_folder: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(tiny_folder("llama", tie_word_embeddings=False))
    expected = {name: checkpoint.info(name).shape for name in checkpoint.tensor_names()}
    assert check_tensors(checkpoint, expected) == []
    tied = {name: shape for name, shape in expected.items() if name != "lm_head.weight"}
    with pytest.raises(CheckpointError, match=r"surplus lm_head\.weight"):  # it is not the embedding over again
        check_tensors(checkpoint, tied)
    with pytest.raises(CheckpointError, match=r"missing more\.weight"):
        check_tensors(checkpoint, expected | {"more.weight": (1,)})
    with pytest.raises(CheckpointError, match=r"surplus model\.norm\.weight"):
        check_tensors(checkpoint, {name: shape for name, shape in expected.items() if name != "model.norm.weight"})
    with pytest.raises(CheckpointError, match=r"wrong shape model.norm.weight \(expected \[65\], got \[64\]\)"):
        check_tensors(checkpoint, expected | {"model.norm.weight": (65,)})


def test_a_tensor_has_its_name_in_the_file_where_that_is_another(tiny_folder: Callable[..., Path]) -> None:
    """As of a decoder that is a part of a model that reads pictures."""
    folder = tiny_folder("llama")
    tensors = load_file(folder / "model.safetensors")
    theirs = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}
    theirs["model.language_model.norm.weight"] = np.ones(65, np.int8)
    save_file(theirs | {"model.language_model.odd.weight": np.ones(1, np.float32)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError) as caught:
        check_tensors(checkpoint, {name: tensor.shape for name, tensor in tensors.items()})
    for problem, tensor in (("surplus", "odd"), ("wrong shape", "norm"), ("wrong dtype", "norm")):
        assert f"{problem} model.language_model.{tensor}" in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "advice"), [("int8", ""), ("bool", ""), ("uint16", ""), ("float64", ", cast to float32 before saving")]
)
def test_tensors_that_are_no_floats_of_a_model_are_named(
    tiny_folder: Callable[..., Path], dtype: str, advice: str
) -> None:
    """Integers are no weights, and float64 would be narrowed in silence."""
    folder = tiny_folder("llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(dtype)
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    expected = {name: checkpoint.info(name).shape for name in checkpoint.tensor_names()}
    wanted = f"wrong dtype model.norm.weight (expected float16 or bfloat16 or float32, got {dtype}){advice}"
    with pytest.raises(CheckpointError, match=re.escape(wanted) + "$"):
        check_tensors(checkpoint, expected)
    del tensors["model.norm.weight"]
    save_file(tensors | {"model.rotary_emb.inv_freq": np.ones(8)}, folder / "model.safetensors")
    assert check_tensors(open_checkpoint(folder), {name: expected[name] for name in tensors}) == [
        "model.rotary_emb.inv_freq"
    ]


def test_a_saved_folder_gives_the_config_it_was_made_with(tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder("qwen2", eos_token_id=9)
    assert decoder_config(open_checkpoint(folder).config) == decoder_config(
        json.loads((folder / "config.json").read_text())
    )
    assert decoder_config(open_checkpoint(folder).config).eos_token_ids == (9,)
