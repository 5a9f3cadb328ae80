"""GGUF: what is read, and that corrupt files are refused in one line that names what is wrong, before memory is
taken."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models.conftest import write_gguf
from tests.models.corrupt import assert_refused, damaged
from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.gguf import ARRAYS, TENSOR_TYPES, GgufFile, block_sizes
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.checkpoints.model_weights import ModelWeights
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.open_model import open_model
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType


def header(keys: int = 0, tensors: int = 0, version: int = 3, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


BILLIONS = 5_000_000_000
PAD = b"\0" * 4096
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "magic": (b"GGML" + PAD, "magic: expected b'GGUF'"),
    "short": (b"GGUF\3", "version: expected 4 bytes"),
    "version": (header(version=1), "expected GGUF version 2 or 3, got 1"),
    "future": (header(version=4), "got 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensor count": (header(tensors=BILLIONS, body=PAD), f"tensor count: got {BILLIONS}"),
    "key count": (header(keys=BILLIONS, body=PAD), f"metadata count: got {BILLIONS}"),
    "string": (
        header(keys=1, body=struct.pack("<Q", BILLIONS) + PAD),
        f"metadata key: string 0 of 1: expected {BILLIONS} bytes",
    ),
    "array": (
        header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 4, BILLIONS) + PAD),
        f"a: got {BILLIONS}, more than",
    ),
    "strings": (header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 8, BILLIONS) + PAD), f"a: got {BILLIONS}"),
    "nested": (header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 9, 1) + PAD), "'a': nested arrays"),
    "value type": (header(keys=1, body=text("a") + struct.pack("<I", 13) + PAD), "'a': unknown value type 13"),
    "twice": (header(keys=2, body=(text("a") + struct.pack("<II", 4, 1)) * 2 + PAD), "'a' is there twice"),
    "utf-8": (header(keys=1, body=struct.pack("<Q", 1) + b"\xff" + PAD), "expected UTF-8"),
    "alignment": (
        header(keys=1, body=text("general.alignment") + struct.pack("<II", 4, 3) + PAD),
        "expected a power of two, got 3",
    ),
    "tensor type": (header(tensors=1, body=tensor("w", (4,), 99, 0) + PAD), "'w': unknown tensor type 99"),
    "dimensions": (header(tensors=1, body=tensor("w", (1,) * 9, 0, 0) + PAD), "'w': expected 1 to 4 dimensions, got 9"),
    "offset": (header(tensors=1, body=tensor("w", (4,), 0, 1 << 40) + PAD), "'w': expected 16 bytes at offset"),
    "size": (
        header(tensors=1, body=tensor("w", (BILLIONS, BILLIONS, 8), 0, 0) + PAD),
        f"'w': expected {4 * BILLIONS**2 * 8} bytes",
    ),
    "unaligned": (header(tensors=1, body=tensor("w", (4,), 0, 4) + PAD), "aligned to 32, got 4"),
    "row": (header(tensors=1, body=tensor("w", (33,), 2, 0) + PAD), "multiple of 32 elements for Q4_0"),
    "no elements": (header(tensors=1, body=tensor("w", (0,), 0, 0) + PAD), "got shape \\[0\\]"),
    "overlap": (
        header(tensors=2, body=tensor("v", (64,), 0, 0) + tensor("w", (64,), 0, 32) + PAD),
        "'v' and 'w' overlap",
    ),
    "two tensors": (
        header(tensors=2, body=tensor("w", (8,), 0, 0) + tensor("w", (8,), 0, 32) + PAD),
        "'w' is there twice",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_corrupt_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    assert_refused(GgufFile, tmp_path / "bad.gguf", *BAD_FILES[case])


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_a_checkpoint_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    good = tmp_path / "good.gguf"
    if not good.exists():
        write_gguf(good)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged(good.read_bytes(), data, head=9000))
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.tensor_names():
            checkpoint.read(name)
        checkpoint.tokenizer()
        checkpoint.chat_template()
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_sizes_of_tensor_types_are_those_of_ggml() -> None:
    theirs = {kind.name: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    for number, kind in TENSOR_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == kind
        assert block_sizes(kind) == theirs[kind]
    assert set(TENSOR_TYPES.values()) == {*ARRAYS, *GGUF_SCHEMES}


def weights_of(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> ModelWeights:
    """The weights of the file's model."""
    model = open_model(path)
    return model.weights(decoder(model.config, CATALOGUE).tensors() if shapes is None else shapes)


def unpermuted(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The other way round from llama.cpp's converter, which swaps `[heads, 2, D/2]` to `[heads, D/2, 2]`."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def test_arrays_are_read_only_views_with_hugging_face_names_and_rows(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    checkpoint = open_checkpoint(path)
    raw = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    weights = weights_of(path)
    value = weights.read("model.layers.1.self_attn.v_proj.weight")
    assert np.array_equal(value, raw["blk.1.attn_v.weight"])
    assert not value.flags.writeable
    assert value.base is not None
    assert np.array_equal(
        weights.read("model.layers.0.self_attn.q_proj.weight"), unpermuted(raw["blk.0.attn_q.weight"], 4)
    )
    assert np.array_equal(
        weights.read("model.layers.0.self_attn.k_proj.weight"), unpermuted(raw["blk.0.attn_k.weight"], 2)
    )
    assert "output.weight" not in checkpoint.tensor_names()
    assert checkpoint.config["tie_word_embeddings"] is True
    with pytest.raises(CheckpointError, match=r"no tensor 'nope'"):
        checkpoint.read("nope")


def test_qwen2_keeps_its_rows_and_biases(tmp_path: Path) -> None:
    biases = {
        f"blk.{layer}.attn_{part}.bias": np.arange(64 if part == "q" else 32, dtype=np.float32)
        for layer in (0, 1)
        for part in "qkv"
    }
    path = write_gguf(
        tmp_path / "m.gguf", "qwen2", biases | {"output.weight": np.ones((267, 64), np.float32)}, pre="qwen2"
    )
    weights = weights_of(path)
    raw = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    assert np.array_equal(weights.read("model.layers.0.self_attn.q_proj.weight"), raw["blk.0.attn_q.weight"])
    assert np.array_equal(weights.read("model.layers.0.self_attn.k_proj.bias"), np.arange(32))
    config = open_model(path).config
    assert all(layer.attention.qkv_bias for layer in config.layers)
    assert not config.tie_word_embeddings


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_16_bit_floats_keep_their_numbers_through_the_row_order(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    wanted = gguf.GGMLQuantizationType[kind]
    raw = gguf.quants.quantize(values, wanted)
    weights = weights_of(write_gguf(tmp_path / "m.gguf", tensors={"blk.0.attn_q.weight": (raw, wanted)}))
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = weights.read(name)
    assert weight.dtype == (np.float16 if kind == "F16" else ml_dtypes.bfloat16)
    assert weights.info(name).type == ArrayType((64, 64), weight.dtype.name)
    assert np.array_equal(weight.astype(np.float32), unpermuted(gguf.quants.dequantize(raw, wanted), 4))


@pytest.mark.parametrize("kind", GGUF_SCHEMES)
def test_quantized_tensors_are_the_blocks_of_the_file(tmp_path: Path, kind: str) -> None:
    """Views on it, also those of a stack of matrices; a copy where the rows are in another order."""
    scheme, wanted = GGUF_SCHEMES[kind], gguf.GGMLQuantizationType[kind]
    shapes = {"blk.0.attn_q.weight": (64, 256), "blk.0.attn_v.weight": (32, 256), "experts": (2, 3, 256)}
    drawn = {name: scheme.draw(np.random.default_rng(3), shape).arrays["blocks"] for name, shape in shapes.items()}
    tensors = {name: (blocks, wanted) for name, blocks in drawn.items()}
    keys = {"embedding_length": 256, "attention.key_length": 16, "attention.value_length": 16}
    embedding = {"token_embd.weight": np.zeros((267, 256), np.float32)}
    path = write_gguf(tmp_path / "m.gguf", tensors=tensors | embedding, keys=keys)
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, GgufCheckpoint)
    weights = weights_of(path, {"model.layers.0.self_attn.q_proj.weight": (64, 256)})
    for name, stored, heads in [
        ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 4),
        ("blk.0.attn_v.weight", "blk.0.attn_v.weight", None),
        ("experts", "experts", None),
    ]:
        source = checkpoint if heads is None else weights
        weight = source.read(name)
        assert isinstance(weight, QuantWeight)
        assert weight.type == source.info(name).type == QuantType(shapes[stored], scheme)
        assert source.info(name).dtype == scheme.name
        assert source.info(name).nbytes == weight.nbytes
        blocks = weight.arrays["blocks"]
        assert heads or not blocks.flags.writeable  # a copy is its reader's own
        assert np.shares_memory(blocks, np.frombuffer(checkpoint.file.map, np.uint8)) == (heads is None)
        expected = gguf.quants.dequantize(drawn[stored], wanted)
        expected = expected if heads is None else unpermuted(expected, heads)
        assert np.array_equal(dense(np, weight, np.float32), expected)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_a_quantized_vector_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    wanted = gguf.GGMLQuantizationType[kind]
    raw = np.zeros(256 // gguf.GGML_QUANT_SIZES[wanted][0] * gguf.GGML_QUANT_SIZES[wanted][1], np.uint8)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors={"output_norm.weight": (raw, wanted)}))
    with pytest.raises(CheckpointError, match=rf"output_norm\.weight: expected a matrix of {kind}, got shape \[256\]"):
        checkpoint.read("output_norm.weight")


def test_the_real_file_dequantizes_as_ggml_says(smollm2_path: Path) -> None:
    weights = weights_of(smollm2_path)
    stored = {t.name: t for t in gguf.GGUFReader(smollm2_path).tensors}
    for ours, theirs, heads in [
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight", None),
        ("model.layers.29.self_attn.q_proj.weight", "blk.29.attn_q.weight", 9),
        ("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", 3),
        ("model.embed_tokens.weight", "token_embd.weight", None),
    ]:
        weight = weights.read(ours)
        assert isinstance(weight, QuantWeight)
        expected = gguf.quants.dequantize(stored[theirs].data, stored[theirs].tensor_type)
        assert np.array_equal(dense(np, weight, np.float32), expected if heads is None else unpermuted(expected, heads))
    checkpoint = open_checkpoint(smollm2_path)
    assert len(checkpoint.tensor_names()) == 272
    assert checkpoint.config["rms_norm_eps"] == 1e-5


def test_long_arrays_of_the_metadata_are_not_kept(smollm2_path: Path) -> None:
    """They are read again each time, the same; short ones are one object."""
    metadata = GgufFile(smollm2_path).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 49152 and tokens is not metadata["tokenizer.ggml.tokens"]
    assert tokens == metadata["tokenizer.ggml.tokens"]
    template = metadata["tokenizer.chat_template"]
    assert template is metadata["tokenizer.chat_template"] and {*metadata} >= {"general.architecture"}
