"""Models that read pictures: their text."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends, registry
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits
from tinyllm.llm import load

MODELS = {
    "qwen2_5_vl": Tiny(
        "Qwen2_5_VL",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [1, 1, 2]},
            "num_hidden_layers": 2,
        },
        vision={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48},
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    skipped = load(tmp_path, "numpy", registry=registry()).skipped_tensors
    assert skipped and all("vis" in name or "projector" in name for name in skipped)


@pytest.mark.parametrize("model", MODELS)
def test_all_ways_of_naming_the_decoder_are_one(model: str, tmp_path: Path) -> None:
    """As the older and the newer files do."""
    MODELS[model].save(tmp_path / "a")
    names = load_file(tmp_path / "a" / "model.safetensors")
    other = tmp_path / "b"
    other.mkdir()
    (other / "config.json").write_text((tmp_path / "a" / "config.json").read_text())

    def renamed(name: str) -> str:
        inner = name.replace("language_model.", "")
        if "vis" in name or "projector" in name:
            return name
        return f"language_model.{inner}" if not name.startswith("language_model.") else f"model.{name}"

    save_file({renamed(name): tensor for name, tensor in names.items()}, other / "model.safetensors")
    assert_same_logits(tmp_path / "a", other)
