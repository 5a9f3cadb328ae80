"""Random tiny checkpoints of both families, written by transformers, which is the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tinyllm.errors import CheckpointError, InvalidInputError
from tinyllm.llm import load
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import Setting

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-tied-bias": ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-head_dim": ("Llama", {"head_dim": 20}),
    "llama-linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    "llama3": (
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
    "llama-yarn": (
        "Llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "qwen2": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
}


def checkpoint(variant: str, folder: Path, dtype: str = "float32", **save: Any) -> Any:
    """Write a random checkpoint and give transformers' model of it."""
    kind, extra = VARIANTS[variant]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | extra)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(getattr(torch, dtype)).eval()
    for name, parameter in model.named_parameters():  # biases and norms that start as 0 and 1 would hide mistakes
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
        else:
            torch.nn.init.normal_(parameter, 0.0, 0.15)
    model.save_pretrained(folder, **save)
    # read back: casting the model casts its rotary frequencies too, which no checkpoint holds
    return getattr(transformers, f"{kind}ForCausalLM").from_pretrained(folder, dtype="float32").eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", backends())
def test_logits_and_greedy_tokens(variant: str, backend: str, tmp_path: Path) -> None:
    """Logits of a prompt, and the tokens of a greedy continuation, are transformers'."""
    judge = checkpoint(variant, tmp_path)
    llm = load(tmp_path, backend, registry=registry())
    ids = [int(i) for i in np.random.default_rng(1).integers(3, 97, 70)]
    with torch.inference_mode():
        wanted = judge(torch.tensor([ids])).logits[0].numpy()
        tokens = judge.generate(
            torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, 70:].tolist()
    np.testing.assert_allclose(llm.logits(ids), wanted, atol=3e-4 * np.abs(wanted).max(), rtol=0)
    assert _continue(llm, ids, 20) == tokens


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
    with torch.inference_mode():
        wanted = judge(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(
        load(tmp_path, "numpy", registry=registry()).logits(ids), wanted, atol=3e-4 * np.abs(wanted).max(), rtol=0
    )


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
