"""Files of strangers, each with what it tries: loading ends soon, in little memory, and in one line that names it."""

from __future__ import annotations

import json
import os
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType
from safetensors.numpy import load_file, save_file

from tests.models.conftest import write_gguf
from tests.models.hostile import CONFIG, SECONDS, YARN, survive, survive_config, written
from tinyllm.errors import CheckpointError, TinyllmError
from tinyllm.llm import load
from tinyllm.models.checkpoints.files import MOST_JSON
from tinyllm.models.checkpoints.mlx_quantization import MlxQuantization
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected a positive integer up to 1000, got 1000000000"),
        ({"num_hidden_layers": 900}, "num_hidden_layers: expected no more than the file's 20 tensors, got 900"),
        ({"hidden_size": 2**63}, "hidden_size: expected a positive integer up to 2147483647, got 9223372036854775808"),
        ({"rope_theta": 10**400}, "rope_theta: expected a number above 0, from"),
        ({"rope_theta": 1}, "rope_theta: expected a number above 0, from"),
        ({"rope_scaling": YARN | {"beta_slow": 1e-308}}, "rope_scaling.beta_slow: expected a number above 0, from"),
        ({"rope_scaling": YARN | {"factor": 10**400}}, "rope_scaling.factor: expected a number"),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": 10**400}},
            "original_max_position_embeddings: expected a positive integer",
        ),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "rope_type: expected one of"),
        ({"eos_token_id": [[1]]}, "eos_token_id: expected a token id or a list of them, got [[1]]"),
        ({"eos_token_id": 10**400}, "eos_token_id: expected a token id"),
        ({"model_type": "m" * 10**6}, "model_type: expected one of"),
        ({"n" * 10**6: 1}, "tinyllm does not know this field"),
        ({"new": "n" * 10**6}, "tinyllm does not know this field"),
        ({"quantization": {"bits": 4, "group_size": 10**30}}, "group_size: expected a positive integer up to"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_numbers_of_a_config_out_of_range(folder: Path, bounded: None, changes: dict[str, Any], said: str) -> None:
    assert said in survive_config(folder, CONFIG | changes)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_token_ids_that_are_none(folder: Path, name: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / name).write_text(json.dumps((CONFIG if name == "config.json" else {}) | {"eos_token_id": [[1]]}))
    try:
        assert "eos_token_id: expected" in survive(folder)
    finally:
        (folder / "generation_config.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"block_count": 3 * 10**9}, "llama.block_count: expected a positive integer up to 1000, got 3000000000"),
        ({"block_count": 800}, "num_hidden_layers: expected no more than the file's 20 tensors, got 800"),
        ({"rope.freq_base": 1e-30}, "llama.rope.freq_base: expected a number above 0, from"),
        ({"rope.freq_base": (1e300, GGUFValueType.FLOAT64)}, "llama.rope.freq_base: expected a number above 0, from"),
        ({"general.alignment": [1] * 10**5}, "general.alignment: expected a power of two, got [1, 1, "),
        ({"new": "n" * 10**6}, "tinyllm does not know this key"),
        ({"n" * 10**5: 1}, "tinyllm does not know this key"),
        ({"general.sampling.temp": float("inf")}, "temperature: expected"),
        ({"tokenizer.ggml.pre": "p" * 10**6}, "tokenizer.ggml.pre: expected a known pre-tokenizer"),
        ({"context_length": [1] * 10**5}, "context_length: expected a positive integer"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_numbers_of_a_gguf_out_of_range(tmp_path: Path, bounded: None, keys: dict[str, Any], said: str) -> None:
    pre = None if "tokenizer.ggml.pre" in keys else "smollm"
    assert said in survive(write_gguf(tmp_path / "m.gguf", keys=keys, pre=pre))


def gguf_of(tmp_path: Path, tensors: int, keys: int, body: bytes) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body)
    return path


@pytest.mark.parametrize(
    ("tensors", "keys", "body", "said"),
    [
        (0, 1, struct.pack("<Q1sIIQ", 1, b"a", 9, 0, 3 << 20) + bytes(3 << 20), "a: expected at most 2097152, got"),
        (0, 70_000, bytes(1 << 20), "metadata count: expected at most 65536, got 70000"),
        (70_000, 0, bytes(2 << 20), "tensor count: expected at most 65536, got 70000"),
        (0, 1, struct.pack("<Q", 50 << 20) + bytes(50 << 20), "expected a string of at most 50331648 bytes, got"),
        (
            0,
            3,
            b"".join(struct.pack("<Q1sIQ", 1, name, 8, 40 << 20) + bytes(40 << 20) for name in (b"a", b"b"))
            + bytes(99),
            "header: expected at most 67108864 bytes",
        ),
    ],
    ids=["array", "keys", "tensors", "string", "header"],
)
def test_headers_of_a_gguf_that_are_too_large(
    tmp_path: Path, bounded: None, tensors: int, keys: int, body: bytes, said: str
) -> None:
    assert said in survive(gguf_of(tmp_path, tensors, keys, body))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            {"w": {"dtype": "F32", "shape": [1] * 300_000, "data_offsets": [0, 4]}},
            "w: shape: expected a list of counts",
        ),
        ({"w": {"dtype": "F32", "shape": [10**400, 0], "data_offsets": [0, 0]}}, "w: shape: expected a list of counts"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**4000]}}, "w: data_offsets: expected two counts"),
        ({"w" * 10**6: {"dtype": "F32", "shape": [1], "data_offsets": [0, 9]}}, "expected offsets in 0..8, got [0, 9]"),
        ({"w": "x" * 10**6}, "w: expected an object, got 'xxx"),
        (b'{"w": ' + b"[" * 900 + b"]" * 900 + b"}", "w: expected an object, got [[["),
        (b" " * (MOST_JSON + 1), f"header: expected at most {MOST_JSON} bytes, got {MOST_JSON + 1}"),
    ],
    ids=["dims", "size", "offsets", "name", "entry", "nested", "length"],
)
def test_headers_of_safetensors_that_are_none(tmp_path: Path, bounded: None, header: Any, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    written(tmp_path / "model.safetensors", header, bytes(8))
    assert said in survive(tmp_path)


@pytest.mark.parametrize("shard", ["s" * 5000, "\ud800", "a\0b", "..", ""])
def test_a_shard_by_a_name_that_no_file_has(tmp_path: Path, shard: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    assert "expected a file of this folder, got none" in survive(tmp_path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NAMES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.mark.parametrize("make", [a_pipe, a_device])
@pytest.mark.parametrize("name", [*NAMES, "tokenizer.model", "chat_template.jinja", "m.gguf"])
def test_what_is_behind_a_name_is_a_file(folder: Path, tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for file in folder.iterdir():
        if file.name != name and not (file.name == "tokenizer.json" and name == "tokenizer.model"):
            (tmp_path / file.name).symlink_to(file)
    make(tmp_path / name)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"expected a file, got a pipe, a device|got none") as caught:
        made = open_checkpoint(tmp_path / name if name == "m.gguf" else tmp_path)
        made.tokenizer()
        made.chat_template()
    assert name in str(caught.value) and time.process_time() - start < SECONDS


@pytest.mark.parametrize("value", [3e38, float("inf"), float("nan")])
def test_weights_at_the_end_of_their_dtype(folder: Path, tmp_path: Path, value: float) -> None:
    """Replies are made of finite logits or not at all, and no warning of numpy's goes before that."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][:] = value
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        llm = load(tmp_path, "numpy")
        with pytest.raises(TinyllmError, match="expected finite logits, got nan"):
            llm.generate([1, 2], max_tokens=2)


def test_twins_of_a_quantization_that_are_nested_too_deeply_to_compare() -> None:
    deep: list[dict[str, Any]] = [{}, {}]
    for _ in range(100_000):
        deep = [{"bits": inner} for inner in deep]
    with pytest.raises(CheckpointError, match="quantization_config: expected the same as quantization, got"):
        MlxQuantization.take_from({"quantization": deep[0], "quantization_config": deep[1]}, "config.json")
