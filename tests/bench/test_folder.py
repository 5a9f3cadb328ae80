"""GGUF files as folders, which mlx-lm reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tests.llm.families import test_gemma as gemma
from tests.llm.families import test_gpt_oss as gpt_oss
from tests.llm.families import test_lfm2 as lfm2
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import PROMPT, Tiny, assert_same_logits
from tinyllm.bench.contenders import MlxLm
from tinyllm.bench.folder import write_folder
from tinyllm.catalogue import CATALOGUE
from tinyllm.errors import UnsupportedError
from tinyllm.llm import load
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.open_model import open_model

SMALL: dict[str, Any] = {"num_hidden_layers": 2}
EXPERTS: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
EXPERT_KEYS = {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 24}


def _squeezed(name: str, tensor: Any) -> Any:
    return tensor[:, 0] if name.endswith("conv.conv.weight") else tensor


MODELS: dict[str, tuple[Tiny, str, dict[str, Any], Any]] = {
    "rows in another order": (Tiny("Llama", SMALL), "llama", {}, by_neighbours(8)),
    "norms less 1": (gemma.MODELS["gemma2"], "gemma2", gemma.KEYS["gemma2"], gemma.norms_plus_one),
    "merged": (Tiny("Phi3", SMALL), "phi3", {}, None),
    "renamed": (Tiny("Olmo2", SMALL), "olmo2", {}, None),
    "a tensor for each expert": (
        Tiny("Qwen3Moe", SMALL | EXPERTS | {"norm_topk_prob": True, "head_dim": 8}),
        "qwen3moe",
        EXPERT_KEYS,
        None,
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_the_folder_is_the_file_to_us_and_to_mlx_lm(model: str, tmp_path: Path) -> None:
    tiny, architecture, keys, change = MODELS[model]
    tiny.save(tmp_path)
    path, folder = write_gguf(tmp_path, architecture, keys, change), tmp_path / "folder"
    folder.mkdir()
    write_folder(path, folder)
    assert_same_logits(folder, path)
    if not registry().probe("mlx").available:
        pytest.skip("mlx cannot run here")
    registry().backend("mlx")  # loads MKL before mlx is imported
    mx, utils = pytest.importorskip("mlx.core"), pytest.importorskip("mlx_lm.utils")
    short = PROMPT[:9]  # its Gemma 2 has no window
    theirs = np.array(utils.load_model(folder)[0](mx.array([short]))[0])
    ours = load(path, "numpy", registry=registry()).logits(short)
    np.testing.assert_allclose(theirs, ours, atol=1e-3 * np.abs(ours).max(), rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_laid_out_by_a_files_own_rules_is_the_file(model: str, tmp_path: Path) -> None:
    tiny, architecture, keys, change = MODELS[model]
    tiny.save(tmp_path)
    for path in (write_gguf(tmp_path, architecture, keys, change), tmp_path):
        opened = open_model(path)
        weights = opened.weights(decoder(opened.config, CATALOGUE).tensors())
        made = weights.laid_out(lambda name, read=weights.read: np.asarray(read(name)))
        assert made.keys() == weights.tensors().keys()
        for name, tensor in made.items():
            np.testing.assert_allclose(tensor, np.asarray(opened.checkpoint.read(name)), atol=1e-6, rtol=0)


def test_what_mlx_lm_cannot_load_is_refused_in_a_line(tmp_path: Path) -> None:
    """It asks for fields of LFM2 that no GGUF file has."""
    pytest.importorskip("mlx_lm")
    lfm2.MODELS["tied"].save(tmp_path)
    keys = {
        "attention.head_count_kv": [0, 2, 0],
        "attention.layer_norm_rms_epsilon": 1e-5,
        "feed_forward_length": 56,
        "shortconv.l_cache": 3,
        "rope.freq_base": 1e6,
    }
    path, folder = write_gguf(tmp_path, "lfm2", keys, _squeezed), tmp_path / "folder"
    folder.mkdir()
    write_folder(path, folder)
    assert_same_logits(folder, path)
    with pytest.raises(UnsupportedError, match=r"^mlx-lm: cannot load this model: .*'block_dim'"):
        MlxLm(folder, mkl=False)


def test_floats_in_place_of_blocks_are_refused(tmp_path: Path) -> None:
    """gpt-oss has its experts in blocks of four bits, which hold no other numbers."""
    replace(gpt_oss.TINY, config=gpt_oss.TINY.config | {"swiglu_limit": 7.0}).save(tmp_path)
    keys = {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 32, "feed_forward_length": 32}
    path, folder = write_gguf(tmp_path, "gpt-oss", keys, gpt_oss.converted), tmp_path / "folder"
    folder.mkdir()
    write_folder(path, folder)
    with pytest.raises(UnsupportedError, match=r"^mlx-lm: cannot load this model: .*experts"):
        MlxLm(folder, mkl=False)
