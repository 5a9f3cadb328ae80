"""Folders in MLX's form: what mlx-lm and tinyllm read of them, and that all else is as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import registry
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import PROMPT
from tests.models.quantize.tiny import MODELS, assert_near, save
from tinyllm.catalogue.schemes.affine import BITS, Affine
from tinyllm.llm import load
from tinyllm.models.checkpoints.safetensors import SafetensorsCheckpoint
from tinyllm.models.quantize.run import affine, quantize

FORM = affine(4, 32)
READ_BY_MLX_LM = ("llama", "qwen3", "qwen3_moe", "mixtral", "phi3")
"""Of granitemoe it reads no quantized experts, and gpt-oss has other logits there, with floats as well."""


def mlx_lm_logits(folder: Path) -> np.ndarray:
    """What mlx-lm makes of a folder: logits `[L, V]`."""
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    model, _ = utils.load_model(folder)
    logits: np.ndarray = np.array(model(mx.array([PROMPT]))[0].astype(mx.float32))
    return logits


@pytest.mark.parametrize("model", MODELS)
def test_every_weight_is_the_original_within_half_a_step(model: str, tmp_path: Path) -> None:
    """In whatever tensors it lies; norms, biases and routers are the very same."""
    source, out = tmp_path / "source", tmp_path / "out"
    save(model, source)
    done: list[tuple[int, int]] = []
    written = quantize(source, out, FORM, progress=lambda *step: done.append(step))
    assert done == [(n, len(done)) for n in range(1, len(done) + 1)] and len(done) == written.quantized + written.kept
    quantized = assert_near(out, source)
    assert {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"} <= quantized
    assert any(".experts." in name for name in quantized) == (
        model in ("qwen3_moe", "mixtral", "gpt_oss", "granitemoe")
    )
    assert written.bytes_after == (out / "model.safetensors").stat().st_size < 0.5 * written.bytes_before


@pytest.mark.parametrize("model", READ_BY_MLX_LM)
def test_mlx_lm_computes_the_same(model: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    save(model, source)
    quantize(source, out, FORM)
    ours = load(out, "numpy", registry=registry()).logits(PROMPT)
    np.testing.assert_allclose(mlx_lm_logits(out), ours, atol=1e-3 * np.abs(ours).max(), rtol=0)


@pytest.mark.parametrize("bits", BITS)
def test_mlx_reads_the_integers_of_all_widths(bits: int, tmp_path: Path) -> None:
    """Scales in the dtype of the weights; mlx's own `dequantize` is the judge."""
    mx = pytest.importorskip("mlx.core")
    source, out = tmp_path / "source", tmp_path / "out"
    save("llama", source, dtype="bfloat16")
    quantize(source, out, affine(bits, 32))
    arrays = mx.load(str(out / "model.safetensors"))
    name = "model.layers.1.mlp.up_proj"
    parts = [arrays[f"{name}.{part}"] for part in ("weight", "scales", "biases")]
    assert parts[1].dtype == parts[2].dtype == mx.bfloat16
    theirs = mx.dequantize(*(p if n == 0 else p.astype(mx.float32) for n, p in enumerate(parts)), 32, bits)
    checkpoint = SafetensorsCheckpoint(out)
    weight: Any = checkpoint.read(f"{name}.weight")
    ours = weight.scheme.dequantize(np, weight, np.float32)
    np.testing.assert_allclose(np.array(theirs), ours, atol=1e-6)
    assert_near(out, source)


def test_names_config_and_texts_stay(tmp_path: Path) -> None:
    """Of a folder; files of weights and code are not copied."""
    source, out = tmp_path / "source", tmp_path / "out"
    save("llama", source)
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer.model", "LICENSE", "code.py", "pytorch_model.bin"):
        (source / name).write_text(name)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("tools")
    quantize(source, out, FORM)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (source, out))
    assert new == old | {"quantization": {"group_size": 32, "bits": 4, "mode": "affine"}}
    names = {name for name in load_file(out / "model.safetensors") if not name.endswith((".scales", ".biases"))}
    assert names == set(load_file(source / "model.safetensors"))
    left = {"code.py", "pytorch_model.bin"}
    assert {p.name for p in out.iterdir()} == {p.name for p in source.iterdir()} - left
    assert (out / "additional_chat_templates" / "tools.jinja").read_text() == "tools"


def test_patterns_keep_tensors(tmp_path: Path) -> None:
    """By the names of the new file or of the old one."""
    source, out = tmp_path / "source", tmp_path / "out"
    save("mixtral", source)
    quantize(source, out, FORM, kept=["lm_head.*", "*.v_proj.weight", "*.experts.*.w2.weight"])
    kept = ("lm_head.weight", "v_proj.weight", "experts.down_proj.weight")
    quantized = assert_near(out, source, kept)
    assert not any(name.endswith(kept) for name in quantized)
    np.testing.assert_allclose(
        mlx_lm_logits(out),
        ours := load(out, "numpy", registry=registry()).logits(PROMPT),
        atol=1e-3 * np.abs(ours).max(),
        rtol=0,
    )


def test_what_was_quantized_is_quantized_anew(tmp_path: Path) -> None:
    """The very same numbers where the form is the same, as they are the levels of their own scales."""
    source, four, eight = tmp_path / "source", tmp_path / "four", tmp_path / "eight"
    save("qwen3", source)
    quantize(source, four, FORM)
    quantize(four, eight, affine(8, 32), kept=["model.embed_tokens.*"])
    assert json.loads((eight / "config.json").read_text())["quantization"]["bits"] == 8
    embedding = "model.embed_tokens.weight"
    assert SafetensorsCheckpoint(eight).info(embedding).dtype == "float16", "as floats, since its form is not kept"
    again = tmp_path / "again"
    quantize(four, again, FORM)
    first, second = (SafetensorsCheckpoint(path).read("model.layers.0.mlp.up_proj.weight") for path in (four, again))
    assert first.scheme == second.scheme == Affine(4, 32)  # type: ignore[union-attr]
    np.testing.assert_array_equal(first.arrays["q"], second.arrays["q"])  # type: ignore[union-attr]


def test_a_head_that_repeats_the_embedding_is_written_once(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    save("llama", source)
    tensors = load_file(source / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, source / "model.safetensors")
    quantize(source, out, FORM)
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    ours = load(out, "numpy", registry=registry()).logits(PROMPT)
    np.testing.assert_allclose(mlx_lm_logits(out), ours, atol=1e-3 * np.abs(ours).max(), rtol=0)


@pytest.mark.parametrize("model", ["llama", "qwen3_moe", "phi3"])
def test_a_gguf_file_gets_the_names_of_a_folder(model: str, tmp_path: Path) -> None:
    """And the order of rows that folders have; what a family's folders merge is merged."""
    source, out = tmp_path / "source", tmp_path / "out"
    mixture = model == "qwen3_moe"
    replace(MODELS[model], config=MODELS[model].config | ({"mlp_only_layers": []} if mixture else {})).save(source)
    keys = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32} if mixture else {}
    path = write_gguf(source, model.replace("_", ""), keys, by_neighbours(16) if model == "llama" else None)
    quantize(path, out, FORM)
    names = {name for name in load_file(out / "model.safetensors") if not name.endswith((".scales", ".biases"))}
    wanted = {name for name in load_file(source / "model.safetensors") if ".experts." not in name}
    stacks = {f"model.layers.{n}.mlp.switch_mlp.{p}_proj.weight" for n in range(2) for p in ("gate", "up", "down")}
    assert names == wanted | (stacks if mixture else set())
    assert_near(out, source)
