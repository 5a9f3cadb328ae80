"""Safetensors: every array equals torch's, zero-copy; corrupt files and disagreeing indexes refused by name."""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file

from tests.models.corrupt import assert_refused, damaged
from tinyllm import Affine, QuantWeight
from tinyllm.catalogue.schemes.bits import pack
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.models.checkpoints.safetensors import SafetensorsCheckpoint, read_safetensors
from tinyllm.spec.quantized import dense

BILLIONS = 5_000_000_000


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "short": (b"\1\0", "header: expected 1 bytes, got 0"),
    "length": (file_of({}, length=BILLIONS), f"header: expected {BILLIONS} bytes"),
    "json": (file_of(b"{nope"), "header: expected JSON"),
    "no object": (file_of([1]), "expected a JSON object, got list"),
    "twice": (file_of(b'{"w": 1, "w": 2}'), "'w' is there twice"),
    "entry": (file_of({"w": 3}), "w: expected an object, got 3"),
    "dtype": (file_of({"w": entry("F8_E5M2")}, bytes(8)), "w: dtype: expected one of .* got 'F8_E5M2'"),
    "shape": (file_of({"w": entry(shape=[-2])}, bytes(8)), "w: shape: expected a list of counts"),
    "shape kind": (file_of({"w": entry(shape="22")}, bytes(8)), "w: shape"),
    "offsets": (file_of({"w": entry(offsets=[0])}, bytes(8)), "w: data_offsets: expected two counts"),
    "past the end": (file_of({"w": entry(offsets=[0, 8])}, bytes(7)), r"w: expected offsets in 0\.\.7, got \[0, 8\]"),
    "backwards": (file_of({"w": entry(offsets=[8, 0])}, bytes(8)), r"got \[8, 0\]"),
    "extent": (file_of({"w": entry(shape=[3])}, bytes(8)), r"w: expected 12 bytes for float32 \[3\], got 8"),
    "billions": (file_of({"w": entry(shape=[BILLIONS, BILLIONS])}, bytes(8)), f"w: expected {4 * BILLIONS**2} bytes"),
    "overlap": (file_of({"v": entry(), "w": entry(offsets=[4, 12])}, bytes(12)), "'v' and 'w' overlap"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_corrupt_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    assert_refused(read_safetensors, tmp_path / "model.safetensors", *BAD_FILES[case])


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_a_checkpoint_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    good = tmp_path / "good.safetensors"
    if not good.exists():
        save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int8)}, good)
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged(good.read_bytes(), data))
    try:
        for stored in read_safetensors(path).values():
            stored.read()
    except CheckpointError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_equals_torchs(tiny_folder: Callable[..., Path], dtype: str) -> None:
    folder = tiny_folder("llama", dtype)
    checkpoint = open_checkpoint(folder)
    expected = load_file(folder / "model.safetensors")
    assert set(checkpoint.tensor_names()) == set(expected)
    for name, tensor in expected.items():
        value = checkpoint.read(name)
        assert value.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
        assert not value.flags.writeable
        assert np.array_equal(np.asarray(value, np.float32), tensor.to(torch.float32).numpy())
        assert checkpoint.info(name).shape == tuple(tensor.shape)
        assert checkpoint.info(name).nbytes == value.nbytes
    with pytest.raises(CheckpointError, match="no tensor 'nope'"):
        checkpoint.info("nope")


def test_a_read_takes_no_copy_and_a_single_file_opens(tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder("llama")
    checkpoint = open_checkpoint(folder / "model.safetensors")
    first, second = (checkpoint.read("model.norm.weight") for _ in range(2))
    assert np.shares_memory(first, second)


def test_a_checkpoint_is_called_as_people_call_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its file, its folder, or the name that it has on the hub, however its path is written."""

    def name(path: str) -> str:
        checkpoint = object.__new__(SafetensorsCheckpoint)
        checkpoint.path = Path(path)
        return checkpoint.name

    snapshot = "hub/models--org--a-model/snapshots/0123abcd"
    assert name("models/a.gguf") == "a.gguf"
    assert name("models/a-model/") == name("models/a-model/model.safetensors") == "a-model"
    assert name(snapshot) == name(f"{snapshot}/model.safetensors") == "org/a-model"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert name(".") == name("../here") == "here"


def test_shards_are_one_checkpoint_and_their_index_is_checked(tiny_folder: Callable[..., Path]) -> None:
    whole, folder = tiny_folder("llama"), tiny_folder("llama", shard="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    one, many = open_checkpoint(whole), open_checkpoint(folder)
    assert set(one.tensor_names()) == set(many.tensor_names())
    assert all(np.array_equal(one.read(name), many.read(name)) for name in one.tensor_names())

    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    weights = good["weight_map"]
    name, shard = next(iter(weights.items()))
    other = next(value for value in weights.values() if value != shard)
    for wrong, message in [
        ({**weights, "more": "model-9.safetensors"}, "shard 'model-9.safetensors': expected a file of this folder"),
        ({**weights, "more": "../secret.safetensors"}, "secret.safetensors': expected a file of this folder"),
        ({**weights, "more": shard}, "tensor 'more': expected it in"),
        ({**weights, name: other}, f"tensor '{name}': expected it in {other}, got "),
        ("nope", "weight_map: expected an object"),
    ]:
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)


def test_a_folder_without_config_or_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: expected a readable file"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a JSON object, got list"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"quant_method": "aqlm"}, "quant_method: expected one of gptq, awq, .*, got 'aqlm'"),
        ({"quant_method": 7}, "quant_method: expected one of gptq, awq, .*, got 7"),
        ({"bits": 4, "group_size": 32, "mode": "mxfp6"}, "mode: expected affine, mxfp4, .* got 'mxfp6'"),
        ({"bits": 7, "group_size": 32}, "bits: expected one of"),
        ({"bits": 4, "group_size": "x"}, "group_size: expected a positive integer"),
        ({"bits": 4, "group_size": 32, "lm_head": 3}, "lm_head: expected the settings of a module"),
    ],
)
def test_other_quantizations_are_refused_by_name(tmp_path: Path, settings_: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings_}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("scales_dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_mlx_layers_become_quant_weights(tmp_path: Path, scales_dtype: Any) -> None:
    random = np.random.default_rng(4)
    values = random.integers(0, 16, (6, 128))
    scales, biases = (random.standard_normal((6, 2)).astype(np.float32).astype(scales_dtype) for _ in range(2))
    if scales_dtype != np.float16:
        scales[0], biases[1] = 1e-9, 1e9  # beyond float16
    wide = random.integers(0, 256, (6, 128))
    tensors = {
        "a.weight": pack(np, values, 4),
        "a.scales": scales,
        "a.biases": biases,
        "b.weight": pack(np, wide, 8),
        "b.scales": np.ones((6, 4), np.float16),
        "b.biases": np.zeros((6, 4), np.float16),
        "norm.weight": np.ones(4, np.float32),
    }
    settings_ = {"bits": 4, "group_size": 64, "b": {"bits": 8, "group_size": 32}, "norm": False}
    (tmp_path / "config.json").write_text(json.dumps({"quantization": settings_, "quantization_config": settings_}))
    torch_tensors = {
        name: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype == ml_dtypes.bfloat16
        else torch.from_numpy(array)
        for name, array in tensors.items()
    }
    from safetensors.torch import save_file as save_torch

    save_torch(torch_tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert sorted(checkpoint.tensor_names()) == ["a.weight", "b.weight", "norm.weight"]
    weight = checkpoint.read("a.weight")
    assert isinstance(weight, QuantWeight)
    assert (weight.scheme, weight.shape) == (Affine(4, 64), (6, 128))
    assert weight.arrays["scales"].dtype == weight.arrays["biases"].dtype == scales_dtype  # as they lie in the file
    assert (checkpoint.info("a.weight").dtype, checkpoint.info("a.weight").shape) == ("affine4/64", (6, 128))
    expected = (
        values.reshape(6, 2, 64) * np.asarray(scales, np.float32)[..., None] + np.asarray(biases, np.float32)[..., None]
    )
    assert np.allclose(dense(np, weight, np.float32), expected.reshape(6, 128), rtol=1e-6)
    assert np.array_equal(dense(np, checkpoint.read("b.weight"), np.float32), wide)
    assert "quantization" not in checkpoint.config


def test_mlx_layers_of_a_decoder_saved_by_itself(tmp_path: Path) -> None:
    """Its tensors lack the prefix `model.`, and so do the modules that the config names."""
    settings_ = {"bits": 4, "group_size": 64, "embed_tokens": {"bits": 8, "group_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization": settings_}))
    parts = {"weight": np.zeros((6, 32), np.uint32), "scales": np.ones((6, 4), np.float16), "biases": np.ones((6, 4))}
    tensors = {f"embed_tokens.{part}": np.asarray(array) for part, array in parts.items()}
    save_file(tensors | {"norm.weight": np.ones(4, np.float32)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert sorted(checkpoint.tensor_names()) == ["model.embed_tokens.weight", "model.norm.weight"]
    assert checkpoint.info("model.embed_tokens.weight").dtype == "affine8/32"
    with pytest.raises(CheckpointError, match=r"no tensor 'norm\.weight'"):
        checkpoint.read("norm.weight")


def test_mlx_layers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization": {"bits": 4, "group_size": 64}}))
    scales = np.ones((6, 2), np.float16)
    packed = np.zeros((6, 16), np.uint32)
    save_file({"a.weight": packed, "a.scales": scales}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.scales: expected a\.weight and a\.biases beside it"):
        open_checkpoint(tmp_path)
    wrong = {"scales": np.ones((6, 3), np.float16), "weight": packed.astype(np.int32), "biases": scales.astype(np.int8)}
    for name, array in (
        *wrong.items(),
        ("biases", scales[:2]),
        ("weight", packed[0]),
        ("weight", np.array(7, np.uint32)),
    ):
        save_file(
            {"a.weight": packed, "a.scales": scales, "a.biases": scales} | {f"a.{name}": array},
            tmp_path / "model.safetensors",
        )
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.info("a.weight").dtype == "affine4/64"
        with pytest.raises(CheckpointError, match=r"a\.weight: [a-z_]+: expected "):
            checkpoint.read("a.weight")


def test_a_folder_of_pickled_tensors_is_told_how_to_convert_them(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the command, which is run as it stands, gives a folder that is read."""
    import torch

    folder = tiny_folder("llama", dtype="bfloat16")
    tensors = {name: open_checkpoint(folder).read(name) for name in open_checkpoint(folder).tensor_names()}
    whole = {name: torch.tensor(tensor.astype(np.float32)).bfloat16() for name, tensor in tensors.items()}
    torch.save(whole, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"got pytorch_model\.bin, whose format runs code") as caught:
        open_checkpoint(folder)
    _, option, code, argument = shlex.split(str(caught.value).partition("with: ")[2])
    assert option == "-c"
    monkeypatch.setattr("sys.argv", ["-c", argument])
    exec(code, {})
    again = open_checkpoint(folder)
    assert set(again.tensor_names()) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again.read(name), tensor)
