"""Random tiny checkpoints of both families, written by transformers, which is the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.llm.families.harness import BOUND, PROMPT, Tiny, wanted_logits
from tinyllm.errors import CheckpointError, InvalidInputError
from tinyllm.llm import load
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import Setting

torch = pytest.importorskip("torch")

VARIANTS: dict[str, Tiny] = {
    "llama": Tiny("Llama", {"tie_word_embeddings": False}),
    "llama-tied-bias": Tiny("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-head_dim": Tiny("Llama", {"head_dim": 20}),
    "llama-linear": Tiny("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    "llama3": Tiny(
        "Llama",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "llama-yarn": Tiny(
        "Llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "qwen2": Tiny("Qwen2", {"tie_word_embeddings": False}),
    "qwen2-tied": Tiny("Qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
}


def checkpoint(variant: str, folder: Path, dtype: str = "float32", **save: Any) -> Any:
    """Write a random checkpoint and give transformers' model of it."""
    return VARIANTS[variant].save(folder, dtype, **save)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", backends())
def test_logits_and_greedy_tokens(variant: str, backend: str, tmp_path: Path) -> None:
    """Logits of a prompt, and the tokens of a greedy continuation, are transformers'."""
    judge = checkpoint(variant, tmp_path)
    llm = load(tmp_path, backend, registry=registry())
    wanted = wanted_logits(judge, PROMPT)
    np.testing.assert_allclose(llm.logits(PROMPT), wanted, atol=BOUND * np.abs(wanted).max(), rtol=0)
    with torch.inference_mode():
        tokens = judge.generate(
            torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, len(PROMPT) :].tolist()
    assert _continue(llm, PROMPT, 20) == tokens


def _continue(llm: Any, ids: list[int], count: int) -> list[int]:
    """A greedy continuation by logits; these checkpoints have no tokenizer."""
    found: list[int] = []
    for _ in range(count):
        found.append(int(llm.logits(ids + found)[-1].argmax()))
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_checkpoints_in_shards(dtype: str, tmp_path: Path) -> None:
    """16-bit weights in several files run in float32 on a CPU."""
    judge = checkpoint("qwen2", tmp_path, dtype, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = list(range(5, 40))
    wanted = wanted_logits(judge, ids)
    logits = load(tmp_path, "numpy", registry=registry()).logits(ids)
    np.testing.assert_allclose(logits, wanted, atol=BOUND * np.abs(wanted).max(), rtol=0)


def test_token_ids_out_of_range_and_overlong_prompts(tmp_path: Path) -> None:
    """Named with both numbers, before anything runs."""
    checkpoint("llama", tmp_path)
    llm = load(tmp_path, "numpy", registry=registry())
    with pytest.raises(InvalidInputError, match="expected an integer from 0 to 96, got 97"):
        llm.logits([3, 97])
    with pytest.raises(InvalidInputError, match="has 300 tokens, at most 256"):
        llm.logits([3] * 300)
    with pytest.raises(InvalidInputError, match="at least one token"):
        llm.logits([])


def test_the_dtype_of_the_cache(tmp_path: Path) -> None:
    """What is said counts, then the setting; else the model's, or with `fast` the backend's choice."""
    checkpoint("llama", tmp_path)
    asked = registry()
    said = Registry(asked.plugins, {**asked.settings, "kv_cache_dtype": Setting("bfloat16", "test")})

    def cache(**given: Any) -> tuple[str, ...]:
        return load(tmp_path, **{"backend": "numpy", "registry": asked} | given).program.cache_dtypes

    assert cache() == cache(fast=True) == ("float32",)
    assert cache(registry=said) == cache(registry=said, fast=True) == ("bfloat16",)
    assert cache(registry=said, kv_cache_dtype="float16") == ("float16",)
    assert cache(registry=said, kv_cache_dtype="auto") == ("float32",)
    if asked.probe("native").available:
        assert cache(backend="native") == ("float32",) and cache(backend="native", fast=True) == ("float16",)
        assert cache(backend="linear=numpy,*=native", fast=True) == ("float16",)
    with pytest.raises(InvalidInputError, match=r"load: kv_cache_dtype: expected one of auto, float32.*got 'int8'"):
        cache(kv_cache_dtype="int8")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """A config with one layer more than the file has."""
    checkpoint("llama", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    with pytest.raises(CheckpointError, match=r"missing model\.layers\.3\."):
        load(tmp_path, "numpy", registry=registry())
