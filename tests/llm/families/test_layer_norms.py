"""Families with layer norms throughout: StableLM and Phi."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.families.families import decoder_config

HALF: dict[str, Any] = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
MODELS: dict[str, tuple[Tiny, str]] = {
    "stablelm": (Tiny("StableLm", {"num_hidden_layers": 2, "use_qkv_bias": True, "rope_parameters": HALF}), "stablelm"),
    "stablelm-parallel": (
        Tiny("StableLm", {"num_hidden_layers": 2, "use_parallel_residual": True, "rope_parameters": HALF}),
        "stablelm",
    ),
    "phi": (Tiny("Phi", {"num_hidden_layers": 2, "rope_parameters": HALF}), "phi2"),
    "phi-norms": (Tiny("Phi", {"num_hidden_layers": 2, "qk_layernorm": True, "hidden_act": "gelu"}), ""),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    tiny, architecture = MODELS[model]
    judge = tiny.save(tmp_path)
    for backend in backends() if model in ("stablelm", "phi") else ["numpy"]:
        assert_is_the_judges(tmp_path, judge, backend)
    if architecture:
        keys = {"rope.dimension_count": 4}
        keys |= {"use_parallel_residual": True} if model == "stablelm-parallel" else {}
        assert_same_logits(tmp_path, write_gguf(tmp_path, architecture, keys))


@pytest.mark.parametrize(("kind", "dims"), [("StableLm", 20), ("Phi", 32)])
def test_transformers_own_configs_are_understood_whole(kind: str, dims: int) -> None:
    made = decoder_config(own_config(kind))
    assert made.layers[0].attention.rope.dims == dims
    assert (made.norm.kind, made.norm.bias, made.norm.eps) == ("layer", True, 1e-5)
    stated = own_config(kind)["rope_parameters"] | {"partial_rotary_factor": 1.0}
    assert decoder_config(own_config(kind, rope_parameters=stated)).layers[0].attention.rope.dims > dims


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("StableLm", {"qk_layernorm": True}),
        ("StableLm", {"hidden_act": "relu2"}),
        ("StableLm", {"use_qkv_bias": 1}),
        ("Phi", {"hidden_act": "relu"}),
        ("Phi", {"layer_norm_eps": 0}),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(kind: str, changes: dict[str, Any]) -> None:
    assert_refused(own_config(kind), changes)
