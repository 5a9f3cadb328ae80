"""GGUF files of folders: read again they are the quantized model, and have its tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.llm.families import (
    test_gemma,
    test_glm4,
    test_granite,
    test_lfm2,
    test_llama,
    test_ministral3,
    test_olmo,
    test_phi3,
)
from tests.llm.families.gguf_writer import by_neighbours
from tests.llm.families.gguf_writer import write_gguf as by_the_packages_tables
from tests.llm.families.harness import Tiny, assert_same_logits
from tests.models.kinds import KINDS, byte_level, sentencepiece_file
from tests.models.quantize.tiny import MODELS, SIZES, assert_near, weights
from tinyllm.bench.folder import write_folder
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.checkpoints.gguf_header import GgufDraft
from tinyllm.models.checkpoints.safetensors import SafetensorsCheckpoint
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.families.gguf_keys import first_difference
from tinyllm.models.open_model import open_model
from tinyllm.models.quantize.gguf_file import TYPES
from tinyllm.models.quantize.run import quantize
from tinyllm.models.text.gguf_tokenizer import SAMPLE, tokenizer_to_gguf
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf

MOE = MODELS["qwen3_moe"].config | {"mlp_only_layers": [], "norm_topk_prob": True}
QUANTIZED: dict[str, tuple[Tiny, str]] = {
    "llama": (MODELS["llama"], "llama"),
    "qwen2": (Tiny("Qwen2", SIZES), "qwen2"),
    "qwen3": (MODELS["qwen3"], "qwen3"),
    "gemma2": (Tiny("Gemma2", SIZES | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 12}), "gemma2"),
    "qwen3_moe": (replace(MODELS["qwen3_moe"], config=MOE), "qwen3moe"),
    "mixtral": (MODELS["mixtral"], "llama"),
    "phi3": (MODELS["phi3"], "phi3"),
}
KEPT: dict[str, tuple[Tiny, str]] = {
    "two ropes, norms less one": (test_gemma.MODELS["gemma3"], "gemma3"),
    "merged projections": (test_glm4.MODELS["glm4"], "glm4"),
    "multipliers": (test_granite.TINY, "granite"),
    "another family's": (test_granite.ATTENDING["dense"], "granite"),
    "convolutions": (test_lfm2.MODELS["tied"], "lfm2"),
    "experts with a bias": (test_lfm2.MODELS["experts"], "lfm2moe"),
    "divisors of the rope": (
        Tiny(
            "Llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 5e5,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }
            },
        ),
        "llama",
    ),
    "biases of rows in another order": (test_llama.MODELS["seven-heads-tied-bias"], "llama"),
    "yarn and longer texts": (test_ministral3.TINY, "mistral3"),
    "factors by length": (test_phi3.MODELS["longrope"], "phi3"),
    "norms after": (test_olmo.MODELS["olmo2"][0], "olmo2"),
}


@pytest.mark.parametrize("model", QUANTIZED)
def test_logits_are_those_of_the_quantized_weights(model: str, tmp_path: Path) -> None:
    """Which a folder has as floats; every matrix is within half a step of the original."""
    tiny, architecture = QUANTIZED[model]
    source, floats = tmp_path / "source", tmp_path / "floats"
    tiny.save(source)
    floats.mkdir()
    quantize(source, out := tmp_path / "out.gguf", "Q8_0")
    assert gguf.GGUFReader(out).fields["general.architecture"].contents() == architecture
    assert len(assert_near(out, source)) > 10
    write_folder(out, floats)
    assert_same_logits(floats, out)


@pytest.mark.parametrize("model", KEPT)
def test_what_is_kept_is_read_as_it_was(model: str, tmp_path: Path) -> None:
    """Weights to the bit, whatever their names, rows and forms are in the file, and the decoder."""
    tiny, architecture = KEPT[model]
    tiny.save(source := tmp_path / "source")
    quantize(source, out := tmp_path / "out.gguf", "Q4_0", kept=["*"])
    metadata = GgufCheckpoint(out, FAMILIES).file.metadata
    assert metadata["general.architecture"] == architecture
    by_longrope = metadata.get(f"{architecture}.rope.scaling.type") == "longrope"
    assert by_longrope == (model == "factors by length")
    if by_longrope:  # llama.cpp divides positions by it
        assert f"{architecture}.rope.scaling.factor" not in metadata
    assert first_difference(open_model(source).config, open_model(out).config) is None
    for (name, _, found), (_, _, wanted) in zip(weights(out), weights(source), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", TYPES)
def test_tensors_are_those_of_the_gguf_package(kind: str, tmp_path: Path) -> None:
    """By its own tables of names and its own quantizer."""
    MODELS["llama"].save(tmp_path)
    quantize(tmp_path, out := tmp_path / "out.gguf", kind, kept=["lm_head.*"])
    theirs = gguf.GGUFReader(by_the_packages_tables(tmp_path, "llama", change=by_neighbours(16)))
    ours = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    assert ours.keys() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        quantized = len(tensor.shape) > 1 and tensor.name != "output.weight"
        wanted = gguf.quants.quantize(tensor.data, gguf.GGMLQuantizationType[kind]) if quantized else tensor.data
        np.testing.assert_array_equal(ours[tensor.name].data, wanted, err_msg=tensor.name)


def test_kept_matrices_have_their_dtype_and_norms_are_float32(tmp_path: Path) -> None:
    """As llama.cpp asks for."""
    MODELS["qwen3_moe"].save(source := tmp_path / "source", dtype="bfloat16")
    _set(source, mlp_only_layers=[], norm_topk_prob=True)
    with pytest.raises(CheckpointError, match=r"surplus|missing"):  # its second layer is dense
        quantize(source, tmp_path / "out.gguf", "Q8_0")
    replace(MODELS["qwen3_moe"], config=MOE).save(source := tmp_path / "sparse", dtype="bfloat16")
    quantize(source, out := tmp_path / "out.gguf", "Q8_0", kept=["*.attn_v.*"])
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert kinds["blk.0.attn_v.weight"] == "BF16"
    assert kinds["blk.0.attn_norm.weight"] == kinds["blk.0.ffn_gate_inp.weight"] == "F32"
    assert kinds["blk.0.ffn_up_exps.weight"] == kinds["blk.0.attn_q.weight"] == "Q8_0"


def _set(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("tiny", "told"),
    [
        (
            Tiny("Qwen3", SIZES | {"head_dim": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
            "dynamic",
        ),
        (Tiny("Qwen3Moe", MOE | {"norm_topk_prob": False}), r"qwen3moe: .*layers\[0\]\.mlp\.normalize is False"),
        (Tiny("Qwen3Moe", MOE | {"mlp_only_layers": [1]}), r"layers\[1\]\.mlp is of MlpConfig, not MoeConfig"),
    ],
)
def test_what_gguf_cannot_say_is_named(tiny: Tiny, told: str, tmp_path: Path) -> None:
    """Before anything is written."""
    tiny.save(source := tmp_path / "source")
    with pytest.raises(CheckpointError, match=rf"source: expected a model that an architecture of GGUF's has.*{told}"):
        quantize(source, tmp_path / "out.gguf", "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("kind", ["byte-level", "bytes", "tokenizer.model", "gguf without prefix", "gguf gemma4"])
def test_a_tokenizer_is_the_same_in_a_file(kind: str, tmp_path: Path) -> None:
    made = KINDS[kind](tmp_path)
    metadata, notes = tokenizer_to_gguf(made, None, made.vocab_size + 3, "model")
    assert notes == []
    read = tokenizer_from_gguf(GgufDraft(tmp_path, metadata, {}))
    assert (read.bos_token_id, read.around) == (made.bos_token_id, made.around)
    for text in (SAMPLE, "he had  a cab\n", " ab</s>cd", "▁ab"):
        assert read.encode(text) == made.encode(text), text
        assert read.decode(read.encode(text)) == made.decode(made.encode(text))


@pytest.mark.parametrize(
    ("kind", "told"),
    [("tokenizer.model unigram", "BPE, .* got Unigram"), ("prepended, bytes", "a form of GGUF's")],
)
def test_a_tokenizer_that_has_no_form_is_refused(kind: str, told: str, tmp_path: Path) -> None:
    """Also one whose merges are no more those of scores."""
    made = KINDS[kind](tmp_path)
    with pytest.raises(CheckpointError, match=f"model: tokenizer: expected .*{told}"):
        tokenizer_to_gguf(made, None, made.vocab_size, "model")
    with pytest.raises(CheckpointError, match="expected ids below the 3 rows of the embedding"):
        tokenizer_to_gguf(byte_level(tmp_path), None, 3, "model")


def test_words_of_a_folder_are_those_of_its_file(tmp_path: Path) -> None:
    """Tokens, what is put around a text, what ends an answer, templates, and how to sample."""
    Tiny("Llama", SIZES | {"vocab_size": 350}).save(source := tmp_path / "source")
    sentencepiece_file("bpe")(source)
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": template}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    (source / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "top_k": 40, "do_sample": True}))
    written = quantize(source, out := tmp_path / "out.gguf", "Q8_0")
    assert written.notes == ()
    ours, theirs = GgufCheckpoint(out, FAMILIES), SafetensorsCheckpoint(source)
    for text in (SAMPLE, "bead head </s> cab"):
        assert ours.tokenizer().encode(text, True) == theirs.tokenizer().encode(text, True)
    assert ours.tokenizer().eos_token_ids == theirs.tokenizer().eos_token_ids
    assert ours.generation_config()[0] == {"temperature": 0.7, "top_k": 40}
    messages = [{"role": "user", "content": "a"}]
    rendered = [made.render(messages) for each in (ours, theirs) if (made := each.chat_template())]
    assert rendered == ["<s>a</s>"] * 2
