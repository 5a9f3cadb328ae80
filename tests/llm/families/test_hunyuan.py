"""Hunyuan's dense models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.families.families import decoder_config

ALPHA: dict[str, Any] = {
    "rope_type": "dynamic",
    "alpha": 50.0,
    "factor": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "rope_theta": 100.0,
}
TINY = Tiny(
    "HunYuanDenseV1", {"head_dim": 10, "num_hidden_layers": 2, "rope_parameters": ALPHA, "tie_word_embeddings": True}
)


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    keys = {"rope.freq_base": 100.0 * 50.0 ** (10 / 8)}
    assert_same_logits(tmp_path, write_gguf(tmp_path, "hunyuan-dense", keys))


def test_without_an_alpha_and_with_biases(tmp_path: Path) -> None:
    judge = Tiny("HunYuanDenseV1", {"head_dim": 8, "num_hidden_layers": 2, "attention_bias": True}).save(tmp_path)
    assert_is_the_judges(tmp_path, judge, "numpy")
    assert_same_logits(tmp_path, write_gguf(tmp_path, "hunyuan-dense"))


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("HunYuanDenseV1"))
    attends = made.layers[0].attention
    assert (attends.qk_norm, attends.rope.theta, made.norm.eps) == ("rotated", 10000.0, 1e-5)
    old = {"rope_theta": 100.0, "rope_scaling": {name: ALPHA[name] for name in ALPHA if name != "rope_theta"}}
    ropes = [
        decoder_config(own_config("HunYuanDenseV1", head_dim=128, **changes)).layers[0].attention.rope
        for changes in (old | {"rope_parameters": None}, {"rope_parameters": ALPHA})
    ]
    assert ropes[0] == ropes[1] and ropes[0].theta == 100.0 * 50.0 ** (128 / 126)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_cla": True}, "use_cla"),
        ({"attention_head_dim": 64}, "attention_head_dim"),
        ({"rope_parameters": ALPHA, "head_dim": None}, "head_dim: expected an integer above 2"),
        ({"rope_parameters": ALPHA | {"rope_type": "yarn"}}, "rope_parameters.alpha: expected none but for"),
        ({"rope_parameters": ALPHA | {"new": 1}}, "rope_parameters.alpha: expected none but for"),
        ({"rope_parameters": ALPHA | {"alpha": "5"}}, "rope_parameters.alpha: expected a number above 0"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=f"config: {named}"):
        decoder_config(own_config("HunYuanDenseV1", **{"head_dim": 128} | changes))
