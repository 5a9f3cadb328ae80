"""Ropes of configs, in both spellings, are those that transformers makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import RopeConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.rope_fields import rope_fields
from tinyllm.spec.rope_frequencies import attention_factor, inverse_frequencies

HEAD = 16
MOST = 128
FACTORS = {"short_factor": [1.0 + i / 9 for i in range(8)], "long_factor": [1.5 * i + 1 for i in range(8)]}
ROPES: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 32},
    {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 32, "factor": 2.0},
    {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 32, "attention_factor": 1.5},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 0.7},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": False},
    {"rope_type": "proportional", "partial_rotary_factor": 0.25},
]


def read(config: dict[str, Any], kind: str | None = None, **settings: Any) -> RopeConfig:
    fields = ConfigFields(config)
    made = rope_fields(fields, config.get("max_position_embeddings", MOST), kind, **settings).config(fields, HEAD)
    fields.ignore("max_position_embeddings")
    fields.finish()
    return made


def assert_theirs(rope: RopeConfig, config: Any, kind: str | None = None) -> None:
    """Frequencies at a short and at a long text."""
    stated = config.rope_parameters if kind is None else config.rope_parameters[kind]
    for length in (5, 33, 500):
        ours = inverse_frequencies(rope.dims, rope.theta, rope.scaling, length)
        if stated["rope_type"] == "default":
            plain = stated["rope_theta"] ** (-np.arange(0, rope.dims, 2) / rope.dims)
            np.testing.assert_allclose(ours, plain, rtol=1e-12)
            continue
        make = ROPE_INIT_FUNCTIONS[stated["rope_type"]]
        theirs, factor = make(config, torch.device("cpu"), seq_len=length, layer_type=kind)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-6)
        assert attention_factor(rope.scaling, length) == pytest.approx(factor)


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_both_spellings_are_read_as_transformers_does(rope: dict[str, Any]) -> None:
    new = {"rope_parameters": {"rope_theta": 50000.0, **rope}}
    old = {"rope_theta": 50000.0, "rope_scaling": {"type" if k == "rope_type" else k: v for k, v in rope.items()}}
    theirs = transformers.LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=MOST, **new)
    assert_theirs(read(new), theirs)
    assert read(old) == read(new) == read({"rope_parameters": theirs.to_dict()["rope_parameters"]})


@pytest.mark.parametrize("inside", [True, False])
def test_the_share_of_a_head_that_is_rotated(inside: bool) -> None:
    share = {"partial_rotary_factor": 0.5}
    config = {"rope_parameters": {"rope_theta": 1e4} | (share if inside else {})} | ({} if inside else share)
    assert read(config) == RopeConfig(8, 1e4)
    theirs = transformers.GlmConfig(head_dim=HEAD, rope_parameters={"rope_type": "default", "rope_theta": 1e4, **share})
    assert read({"rope_parameters": theirs.to_dict()["rope_parameters"]}) == RopeConfig(8, 1e4)
    assert read({}, share=0.25, theta=5e5) == RopeConfig(4, 5e5)


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
@pytest.mark.parametrize("family", ["gemma3", "olmo3", "gemma4"])
def test_each_kind_of_layer_has_its_rope(family: str, kind: str) -> None:
    scaled = {"rope_type": "linear", "factor": 8.0}
    if family == "gemma4":
        theirs = transformers.Gemma4TextConfig(head_dim=HEAD, global_head_dim=HEAD)
        old = None
    elif family == "gemma3":
        old = {"rope_theta": 1e6, "rope_local_base_freq": 3e4, "rope_scaling": scaled}
        theirs = transformers.Gemma3TextConfig(head_dim=HEAD, **dict(old))
    else:
        old = {"rope_theta": 5e5, "rope_scaling": scaled}
        theirs = transformers.Olmo3Config(hidden_size=64, num_attention_heads=4, **dict(old))
    new = {"rope_parameters": theirs.to_dict()["rope_parameters"]}
    assert_theirs(read(new, kind), theirs, kind)
    if old is not None:
        local = {"gemma3": ("rope_local_base_freq", 1e4), "olmo3": ("rope_theta", 1e4)}[family]
        unscaled = local if kind == "sliding_attention" else None
        fields = ConfigFields(old)
        assert rope_fields(fields, MOST, kind, unscaled=unscaled).config(fields, HEAD) == read(new, kind)


def test_one_rope_for_all_kinds_is_that_of_each() -> None:
    rope = {"rope_type": "default", "rope_theta": 3e4}
    nested = {"rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)}}
    assert read(nested) == read(nested, "sliding_attention") == read({"rope_parameters": rope}, "full_attention")


@pytest.mark.parametrize("kind", ["mrope", "default"])
def test_mrope_of_text_is_plain_rope(kind: str) -> None:
    sections = {"type": kind, "mrope_section": [2, 3, 3]}
    assert read({"rope_theta": 1e6, "rope_scaling": sections}) == RopeConfig(HEAD, 1e6)
    interleaved = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    config = {"rope_parameters": interleaved | {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}
    assert read(config) == RopeConfig(8, 1e6)


def test_phi3s_first_name_of_longrope() -> None:
    config = {"original_max_position_embeddings": 32, "rope_scaling": {"type": "su", **FACTORS}}
    made = read(config).scaling
    assert (made.kind, made.original_max_position, made.factor) == ("longrope", 32, MOST / 32)


LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 32, **FACTORS}


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        ({"rope_scaling": {"rope_type": "dynamic"}}, None, "rope_scaling.factor: expected a number for type dynamic"),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}},
            None,
            "original_max_position_embeddings: expected max_position_embeddings 128, got 64",
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "alpha": 9}},
            None,
            "rope_scaling.alpha: expected no",
        ),
        ({"rope_scaling": LONGROPE | {"short_factor": [1.0]}}, None, "long_factor: expected 1 numbers as in short_"),
        ({"rope_scaling": LONGROPE | {"short_factor": "1"}}, None, "rope_scaling.short_factor: expected a list"),
        ({"rope_scaling": LONGROPE | {"long_factor": [0] * 8}}, None, "rope_scaling.long_factor: expected a list"),
        ({"rope_scaling": LONGROPE | {"long_factor": None}}, None, "rope_scaling.long_factor: expected a number"),
        ({"rope_scaling": LONGROPE | {"short_mscale": 1.0}}, None, "rope_scaling.short_mscale: expected both"),
        (
            {"rope_scaling": LONGROPE | {"original_max_position_embeddings": 1}},
            None,
            "original_max_position_embeddings: expected an integer above 1",
        ),
        (
            {"rope_scaling": LONGROPE, "partial_rotary_factor": 0.5},
            None,
            "rope_scaling.short_factor: expected 4 numbers, one for each pair, got 8",
        ),
        ({"partial_rotary_factor": 0.1}, None, "partial_rotary_factor: expected a share"),
        ({"partial_rotary_factor": 1.5}, None, "partial_rotary_factor: expected a number"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.25},
            None,
            "partial_rotary_factor: expected 0.5 as in rope_parameters, got 0.25",
        ),
        ({"rope_scaling": {"mrope_section": [2, 2, 2]}}, None, "mrope_section: expected sections of 8 pairs in all"),
        ({"rope_scaling": {"mrope_section": [2, -2]}}, None, "mrope_section: expected a list of positive integers"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e5}}},
            None,
            "rope_parameters: expected one rope for all layers",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "sliding_attention",
            "rope_parameters.sliding_attention: expected an object, got nothing",
        ),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_what_is_not_understood_is_refused_by_name(config: dict[str, Any], kind: str | None, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(config, kind)
    assert said.replace("got nothing", "got None") in str(caught.value)
