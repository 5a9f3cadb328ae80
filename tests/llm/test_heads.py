"""Which matrix makes the logits, and what tensors are called: as the file has it, and as transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tests.llm.families.harness import SIZES
from tests.llm.test_families import VARIANTS, checkpoint
from tests.models.conftest import write_gguf
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.bits import pack
from tinyllm.errors import CheckpointError
from tinyllm.llm import LLM, load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

IDS = list(range(5, 45))
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def opened(path: Path) -> LLM:
    """The model on numpy."""
    return load(path, "numpy", registry=registry())


def same_logits(llm: LLM, judge: Any) -> None:
    """Within float32's rounding."""
    with torch.inference_mode():
        wanted = judge(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(llm.logits(IDS), wanted, atol=3e-4 * np.abs(wanted).max(), rtol=0)


def reread(folder: Path) -> Any:
    """transformers' own reading of the folder."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def state(folder: Path, **fields: Any) -> None:
    """Change fields of the config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(folder: Path, **tensors: Any) -> None:
    """Change tensors of the one file; None takes one out. Dots in names are written `__`."""
    path = folder / "model.safetensors"
    changed = {name.replace("__", "."): array for name, array in tensors.items()}
    kept = safetensors.load_file(path) | changed
    safetensors.save_file({name: array for name, array in kept.items() if array is not None}, path)


@pytest.mark.parametrize("variant", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_files_own_head_counts_whatever_the_config_says(variant: str, tied: bool, tmp_path: Path) -> None:
    checkpoint(variant, tmp_path)
    state(tmp_path, tie_word_embeddings=tied)
    llm = opened(tmp_path)
    assert not llm.config.tie_word_embeddings and llm.skipped_tensors == []
    same_logits(llm, reread(tmp_path))


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_the_embedding_over_again_is_tied(tied: bool, tmp_path: Path) -> None:
    checkpoint("llama", tmp_path)
    rewrite(tmp_path, lm_head__weight=safetensors.load_file(tmp_path / "model.safetensors")[EMBEDDING])
    state(tmp_path, tie_word_embeddings=tied)
    llm = opened(tmp_path)
    assert llm.config.tie_word_embeddings and llm.skipped_tensors == [HEAD]
    same_logits(llm, reread(tmp_path))


def test_a_head_that_differs_in_its_last_number_alone_is_its_own(tmp_path: Path) -> None:
    checkpoint("llama", tmp_path)
    head = safetensors.load_file(tmp_path / "model.safetensors")[EMBEDDING].copy()
    head[-1, -1] += 1
    rewrite(tmp_path, lm_head__weight=head)
    state(tmp_path, tie_word_embeddings=True)
    same_logits(opened(tmp_path), reread(tmp_path))


def test_a_head_that_does_not_fit_is_named_though_the_config_says_that_it_is_tied(tmp_path: Path) -> None:
    checkpoint("llama", tmp_path)
    rewrite(tmp_path, lm_head__weight=np.ones((98, 48), np.float32))
    state(tmp_path, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"wrong shape lm_head\.weight"):
        opened(tmp_path)


@pytest.mark.parametrize("twice", [False, True])
def test_a_gguf_with_output_weight(twice: bool, tmp_path: Path) -> None:
    """Without one it is tied, which the tiny files of all other tests are."""
    random = np.random.default_rng(8)
    embedding, head = random.standard_normal((2, 267, 64)).astype(np.float32)
    tensors = {"token_embd.weight": embedding, "output.weight": embedding if twice else head}
    path = write_gguf(tmp_path / "m.gguf", tensors=tensors)
    llm = opened(path)
    assert llm.config.tie_word_embeddings is twice and llm.skipped_tensors == ["output.weight"] * twice
    same_logits(llm, transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval())


def quantized(folder: Path, heads: dict[str, Any]) -> None:
    """Embedding and head as MLX packs them, and the config that says so."""
    rewrite(folder, **dict.fromkeys((HEAD, EMBEDDING)))
    parts = {}
    for name, (values, scales) in heads.items():
        parts |= {
            f"{name}.weight": pack(np, values, 8),
            f"{name}.scales": scales,
            f"{name}.biases": np.full_like(scales, -2),
        }
    rewrite(folder, **parts)
    state(folder, tie_word_embeddings=True, quantization={"bits": 8, "group_size": 16})


@pytest.mark.parametrize("differs", ["", "weight", "scales"])
def test_a_packed_head_of_mlx_counts(differs: str, tmp_path: Path) -> None:
    """One that repeats the embedding is tied; one that differs in its words or its scales alone is not."""
    checkpoint("llama", tmp_path)
    random = np.random.default_rng(9)
    words = random.integers(0, 256, (2, 97, 48))
    scales = random.uniform(0.01, 0.02, (2, 97, 3)).astype(np.float32)
    embedding = words[0], scales[0]
    head = words[int(differs == "weight")], scales[int(differs == "scales")]
    quantized(tmp_path, {"model.embed_tokens": embedding, "lm_head": head})
    llm = opened(tmp_path)
    assert llm.config.tie_word_embeddings is not bool(differs)
    assert llm.checkpoint.info(EMBEDDING).type.scheme == Affine(8, 16)  # type: ignore[union-attr]
    dense = [np.repeat(s, 16, axis=1) * w - 2 for w, s in (embedding, head)]
    other = tmp_path / "dense"
    other.mkdir()
    (other / "config.json").write_text((tmp_path / "config.json").read_text())
    state(other, tie_word_embeddings=False, quantization=None)
    packed = ("embed_tokens", "lm_head")
    kept = safetensors.load_file(tmp_path / "model.safetensors").items()
    tensors = {name: array for name, array in kept if not any(part in name for part in packed)}
    safetensors.save_file(
        tensors | {EMBEDDING: np.float32(dense[0]), HEAD: np.float32(dense[1])}, other / "model.safetensors"
    )
    same_logits(llm, reread(other))


@pytest.mark.parametrize("variant", ["llama-tied-bias", "qwen2-tied"])
def test_a_decoder_saved_by_itself(variant: str, tmp_path: Path) -> None:
    """transformers' `LlamaModel` and `Qwen2Model` write no prefix `model.`."""
    tiny = VARIANTS[variant]
    torch.manual_seed(0)
    model = getattr(transformers, f"{tiny.classes}Model")(tiny.theirs)
    model.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in safetensors.load_file(tmp_path / "model.safetensors")
    same_logits(opened(tmp_path), reread(tmp_path))


def test_a_decoder_without_a_head_that_needs_one_says_so(tmp_path: Path) -> None:
    transformers.LlamaModel(transformers.LlamaConfig(**SIZES, tie_word_embeddings=False)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing lm_head\.weight$"):
        opened(tmp_path)
