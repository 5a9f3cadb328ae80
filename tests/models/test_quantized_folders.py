"""Quantized folders of every tool: the numbers that the format's formula gives, kept in as many bits, and multiplied as
the dequantized weights are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tests.models.quantized_folders import FORMATS, compressed, float8, gptq, mxfp4, stream, write
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantType, QuantWeight

every_format = pytest.mark.parametrize("name", FORMATS)


def folder_of(name: str, path: Path, rows: int = 64, columns: int = 96, **settings: Any) -> tuple[Path, np.ndarray]:
    """A folder with one module `a`, and its matrix."""
    format_ = FORMATS[name]
    tensors, matrix = format_.make(np.random.default_rng(7), rows, columns)
    config = {format_.key: format_.settings | settings}
    return write(path, config, {f"a.{part}": array for part, array in tensors.items()}), matrix


@every_format
def test_numbers_are_those_of_the_formula(name: str, tmp_path: Path) -> None:
    path, matrix = folder_of(name, tmp_path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensor_names() == ("a.weight",)
    info, weight = checkpoint.info("a.weight"), checkpoint.read("a.weight")
    assert isinstance(weight, QuantWeight) and isinstance(info.type, QuantType)
    assert (info.type, info.shape) == (weight.type, (64, 96))
    assert not {"quantization", "quantization_config"} & checkpoint.config.keys()
    rounded = name in ("compressed nvfp4", "nf4 nested")  # a quotient and a sum, rounded to float32
    np.testing.assert_allclose(dense(np, weight, np.float64), matrix, rtol=2e-7 if rounded else 0, atol=0)


@every_format
def test_native_holds_little_more_than_the_file(name: str, tmp_path: Path) -> None:
    """Of a matrix whose rows are long, as those of a model are."""
    packing = pytest.importorskip("tinyllm_native.packing")
    if not registry().probe("native").available:
        pytest.skip("no native library")
    from tinyllm.plugins import ArrayType, Call

    columns = 3840  # of 48 columns that blocks here have, and of 128 columns that none has
    checkpoint = open_checkpoint(folder_of(name, tmp_path, 64, columns)[0])
    weight = checkpoint.read("a.weight")
    assert isinstance(weight, QuantWeight)
    held = packing.pack(weight, Call("linear", {"x": ArrayType((1, columns), "float32"), "weight": weight.type}, {}))
    assert sum(array.nbytes for array in held.values()) <= 1.1 * checkpoint.info("a.weight").nbytes


@pytest.fixture(scope="module")
def plain(tiny_folder: Callable[..., Path]) -> Path:
    return tiny_folder("llama", initializer_range=0.2, tie_word_embeddings=False)


ONE_OF_EACH = ("gptq4 ordered", "w4 zeros", "fp8 blocks", "compressed nvfp4", "nf4")
"""Formats whose schemes are all that there are."""


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "native") for name in FORMATS), *((name, "numpy") for name in ONE_OF_EACH)]
)
def test_logits_are_those_of_the_dequantized_weights(name: str, backend: str, plain: Path, tmp_path: Path) -> None:
    from tinyllm.llm import load

    if not registry().probe(backend).available:
        pytest.skip(f"no {backend}")
    format_, rng = FORMATS[name], np.random.default_rng(1)
    whole, quantized = {}, {}
    source = open_checkpoint(plain)
    for tensor in source.tensor_names():
        array = np.asarray(source.read(tensor))
        whole[tensor] = array
        if not tensor.endswith("_proj.weight"):
            quantized[tensor] = array
            continue
        parts, matrix = format_.make(rng, *array.shape)
        whole[tensor] = matrix.astype(np.float32)
        quantized |= {tensor.removesuffix("weight") + part: held for part, held in parts.items()}
    config = json.loads((plain / "config.json").read_text())
    path = write(tmp_path / "quantized", config | {format_.key: format_.settings}, quantized)
    ids = [3, 97, 250, 4, 4, 61]
    wanted = load(write(tmp_path / "whole", config, whole), "numpy", registry=registry()).logits(ids)
    got = load(path, backend, registry=registry()).logits(ids)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(got, wanted, atol=3e-5 * np.abs(wanted).max(), rtol=0)


def test_a_bias_of_zeros_is_none(plain: Path, tmp_path: Path) -> None:
    """GPTQ's tools wrote one for each layer, whatever the model has."""
    from tinyllm.llm import load

    source, name = open_checkpoint(plain), "model.layers.0.mlp.up_proj.bias"
    tensors = {tensor: np.asarray(source.read(tensor)) for tensor in source.tensor_names()}
    config = json.loads((plain / "config.json").read_text())
    more = tensors | {name: np.zeros(96, np.float16)}
    whole, zeros = (
        load(write(tmp_path / each, config, made), "numpy", registry=registry())
        for each, made in (("a", tensors), ("b", more))
    )
    np.testing.assert_array_equal(zeros.logits([3, 97]), whole.logits([3, 97]))
    more[name][7] = 1e-3
    with pytest.raises(CheckpointError, match=r"surplus model\.layers\.0\.mlp\.up_proj\.bias"):
        load(write(tmp_path / "c", config, more), "numpy", registry=registry())


def test_experts_of_gpt_oss_are_one_weight(tmp_path: Path) -> None:
    """Three matrices, in one tensor of blocks; a byte holds neighbours."""
    tensors, matrix = mxfp4("w_blocks", "w_scales", False)(np.random.default_rng(3), 3 * 8, 64)
    shaped = {"w_blocks": tensors["w_blocks"].reshape(3, 8, 2, 16), "w_scales": tensors["w_scales"].reshape(3, 8, 2)}
    path = write(tmp_path, {"quantization_config": {"quant_method": "mxfp4"}}, shaped)
    weight = open_checkpoint(path).read("w_blocks")
    assert isinstance(weight, QuantWeight) and weight.shape == (3, 8, 64)
    np.testing.assert_array_equal(dense(np, weight, np.float64), matrix.reshape(3, 8, 64))


def test_blocks_of_128_are_cut_at_the_edge(tmp_path: Path) -> None:
    tensors, matrix = float8((128, 128), "weight_scale_inv")(np.random.default_rng(3), 200, 320)
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
    named = {f"a.{part}": array for part, array in tensors.items()} | {"lm_head.weight": np.ones((2, 3), np.float32)}
    checkpoint = open_checkpoint(write(tmp_path, {"quantization_config": settings}, named))
    assert checkpoint.info("a.weight").dtype == "fp8/64"
    np.testing.assert_array_equal(dense(np, checkpoint.read("a.weight"), np.float64), matrix)
    np.testing.assert_array_equal(checkpoint.read("lm_head.weight"), 1)


def test_a_zero_of_0_takes_from_its_neighbour_and_gives_back(tmp_path: Path) -> None:
    """As GPTQModel writes it: a subtraction of whole words."""
    tensors, matrix = gptq(4, 32, 0)(np.random.default_rng(3), 64, 96)
    assert (tensors["qzeros"].view(np.uint32) & 15 == 0).any()
    tensors["qzeros"] = (tensors["qzeros"].view(np.uint32) - np.uint32(0x11111111)).view(np.int32)
    path = write(
        tmp_path, {"quantization_config": FORMATS["gptq4"].settings}, {f"a.{n}": t for n, t in tensors.items()}
    )
    np.testing.assert_array_equal(dense(np, open_checkpoint(path).read("a.weight"), np.float64), matrix)


@pytest.mark.parametrize("words", ["each less 1", "whole words", "any"])
def test_zeros_of_3_bits_that_writers_disagree_on(words: str, tmp_path: Path) -> None:
    """All in the middle they are known, whoever wrote them; others are refused."""
    tensors, _ = gptq(3, 32, 1)(np.random.default_rng(3), 64, 96)
    if words == "each less 1":
        tensors["qzeros"] = stream(np.full((3, 64), 3), 3)
    if words == "whole words":  # the numbers that GPTQModel takes from the words of each 32 zeros
        offsets = np.array([0x24924924, 0x92492492, 0x49249249] * 2, np.uint32)
        tensors["qzeros"] = (stream(np.full((3, 64), 4), 3).view(np.uint32) - offsets).view(np.int32)
    settings = {"quant_method": "gptq", "bits": 3, "group_size": 32, "sym": True}
    path = write(tmp_path, {"quantization_config": settings}, {f"a.{n}": t for n, t in tensors.items()})
    if words == "any":
        with pytest.raises(CheckpointError, match="expected zeros of 3 bits as gptq_v2 has them"):
            open_checkpoint(path).read("a.weight")
    else:
        weight = open_checkpoint(path).read("a.weight")
        assert isinstance(weight, QuantWeight) and (weight.arrays["zeros"] == 4).all()


def test_settings_of_gptq_may_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    path, matrix = folder_of("gptq4", tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "quantize_config.json").write_text(json.dumps(config.pop("quantization_config")))
    (path / "config.json").write_text("{}")
    np.testing.assert_array_equal(dense(np, open_checkpoint(path).read("a.weight"), np.float64), matrix)


REFUSED = {
    "gptq bits": ("gptq4", {"bits": 5}, "quantization_config.bits: expected 2 or 3 or 4 or 8, got 5"),
    "gptq format": ("gptq4", {"checkpoint_format": "marlin"}, "checkpoint_format: expected 'gptq' or 'gptq_v2'"),
    "gptq dynamic": ("gptq4", {"dynamic": {"+:a": {"bits": 8}}}, "quantization_config.dynamic: expected"),
    "gptq group": ("gptq4", {"group_size": 48}, "a.scales: expected shape"),
    "gptq group kind": ("gptq4", {"group_size": "32"}, "group_size: expected -1 or a positive integer, got '32'"),
    "unknown setting": ("gptq4", {"twist": 1}, "quantization_config.twist: expected no such setting, got 1"),
    "method": ("gptq4", {"quant_method": "aqlm"}, "quant_method: expected one of gptq, awq, .* got 'aqlm'"),
    "awq version": ("awq4", {"version": "gemv"}, "version: expected 'gemm' or 'GEMM', got 'gemv'"),
    "awq left out": (
        "awq4",
        {"modules_to_not_convert": ["a"]},
        "expected the weight of a as it is, got a quantized one",
    ),
    "cache": ("w4 groups", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme: expected None, got"),
    "rotations": ("w4 groups", {"transform_config": {"config_groups": {"R1": 1}}}, "transform_config: expected"),
    "compressed format": ("w4 groups", {"format": "marlin-24"}, "format: expected one of .* got 'marlin-24'"),
    "ignored": ("w4 groups", {"ignore": ["re:^a"]}, "ignore: expected the weight of a as it is"),
    "no regular expression": ("w4 groups", {"ignore": ["re:("]}, "ignore: expected regular expressions"),
    "block": ("fp8 blocks", {"weight_block_size": [40]}, "weight_block_size: expected rows and columns"),
    "block size": ("fp8 blocks", {"weight_block_size": [32, 32]}, "a.weight_scale_inv: expected shape"),
    "mode": ("mlx mxfp4", {"mode": "mxfp6"}, "quantization.mode: expected affine, mxfp4, mxfp8, nvfp4, got 'mxfp6'"),
    "mode bits": ("mlx mxfp4", {"bits": 8}, "quantization.bits: expected 4 in the mode mxfp4, got 8"),
    "fp4": ("nf4", {"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type: expected 'nf4', got 'fp4'"),
    "8 bits": ("nf4", {"load_in_4bit": False, "load_in_8bit": True}, "load_in_4bit: expected True, got False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_half_understood_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, settings, message = REFUSED[case]
    path, _ = folder_of(name, tmp_path, **settings)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


@every_format
def test_a_part_that_is_missing_or_of_another_kind_is_refused_by_name(name: str, tmp_path: Path) -> None:
    format_ = FORMATS[name]
    tensors, _ = format_.make(np.random.default_rng(7), 64, 96)
    config = {format_.key: format_.settings}
    optional = ("g_idx",)
    for part in tensors:
        left = {f"a.{other}": array for other, array in tensors.items() if other != part}
        if part not in optional and len(left) > 1:
            checkpoint_of = write(tmp_path, config, left)
            try:
                opened = open_checkpoint(checkpoint_of)
            except CheckpointError as error:
                assert "a" in str(error) and "\n" not in str(error)
            else:  # nothing says any more that it is quantized: what is left is no weight of the model
                assert set(opened.tensor_names()) == set(left)
        if tensors[part].ndim == 2 and not (part == "weight" and "fp8" in name):  # whose rows nothing else counts
            short = {f"a.{other}": array[:-1] if other == part else array for other, array in tensors.items()}
            with pytest.raises(CheckpointError, match=r"a[.:]"):
                open_checkpoint(write(tmp_path, config, short)).read("a.weight")


def test_an_order_of_columns_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    """Where the settings say that there is one, and where they do not but another layer has one."""
    for name, whole in (("gptq4 ordered", ()), ("gptq3 ordered", ("b",))):
        format_ = FORMATS[name]
        tensors, _ = format_.make(np.random.default_rng(7), 64, 96)
        left = {f"a.{part}": array for part, array in tensors.items() if part != "g_idx"}
        left |= {f"{stem}.{part}": array for stem in whole for part, array in tensors.items()}
        with pytest.raises(CheckpointError, match=r"a: expected the tensors .*, got 'none called g_idx'"):
            open_checkpoint(write(tmp_path, {format_.key: format_.settings}, left))
        floats = {f"a.{part}": array.astype("f4") if part == "g_idx" else array for part, array in tensors.items()}
        with pytest.raises(CheckpointError, match=r"a\.g_idx: expected int32 or int64, got 'float32'"):
            open_checkpoint(write(tmp_path, {format_.key: format_.settings}, floats))


def test_an_order_that_compressed_tensors_speaks_of_is_needed(tmp_path: Path) -> None:
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32, "actorder": "group"}
    tensors, _ = FORMATS["w4 groups"].make(np.random.default_rng(7), 64, 96)
    named = {f"a.{part}": array for part, array in tensors.items()}
    config = {"quantization_config": compressed("pack-quantized", **weights)}
    with pytest.raises(CheckpointError, match=r"a: expected the tensors .*, got 'none called weight_g_idx'"):
        open_checkpoint(write(tmp_path, config, named))
    open_checkpoint(write(tmp_path, config, named | {"a.weight_g_idx": np.arange(96, dtype="i4") // 32}))


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    format_ = FORMATS["fp8 whole"]
    tensors, _ = format_.make(np.random.default_rng(7), 64, 96)
    tensors["weight"].view(np.uint8)[3, 4] = 0xFF
    path = write(tmp_path, {format_.key: format_.settings}, {f"a.{n}": t for n, t in tensors.items()})
    with pytest.raises(CheckpointError, match=r"a\.weight: q: expected numbers, got NaN"):
        open_checkpoint(path).read("a.weight")


def test_weights_of_one_order_alone_are_merged(tmp_path: Path) -> None:
    """Query and key of one order are put below one another; of two orders they are not."""
    path, _ = folder_of("gptq4 ordered", tmp_path)
    info = open_checkpoint(path).info("a.weight")
    assert info.order and replace(info, order="") != info


@pytest.mark.parametrize(("mode", "group", "bits"), [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)])
def test_mlx_says_the_same_of_what_it_quantized(mode: str, group: int, bits: int, tmp_path: Path) -> None:
    """One module in a float mode among affine ones, by an override of its own."""
    mx = pytest.importorskip("mlx.core")
    w = mx.array(np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32))
    q, scales = mx.quantize(w, group_size=group, bits=bits, mode=mode)
    theirs = mx.dequantize(q, scales, group_size=group, bits=bits, mode=mode, dtype=mx.float32)
    affine = dict(zip(("weight", "scales", "biases"), mx.quantize(w, group_size=32, bits=4), strict=True))
    tensors = {f"b.{part}": np.asarray(array) for part, array in affine.items()}
    tensors |= {"a.weight": np.asarray(q), "a.scales": np.asarray(scales)}
    settings = {"bits": 4, "group_size": 32, "a": {"mode": mode, "group_size": group, "bits": bits}}
    checkpoint = open_checkpoint(write(tmp_path, {"quantization": settings}, tensors))
    np.testing.assert_array_equal(dense(np, checkpoint.read("a.weight"), np.float32), np.asarray(theirs))
    assert checkpoint.info("b.weight").dtype == "affine4/32"


def test_transformers_says_the_same_of_blocks_of_gpt_oss(tmp_path: Path) -> None:
    """Its matrix is the other way round."""
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, 8, 2, 16), dtype=np.uint8)
    scales = rng.integers(110, 130, (3, 8, 2), dtype=np.uint8)
    theirs = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
    config = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
    path = write(tmp_path, config, {"w_blocks": blocks, "w_scales": scales})
    ours = dense(np, open_checkpoint(path).read("w_blocks"), np.float32)
    np.testing.assert_array_equal(ours, np.swapaxes(theirs.numpy(), 1, 2))


@pytest.mark.parametrize(
    ("name", "part", "array"),
    [
        ("w4 rows", "weight_shape", np.array([64, 0])),
        ("w4 rows", "weight_shape", np.array([-64, 96])),
        ("mlx mxfp8", "weight", np.array(7, np.uint32)),
        ("fp8 whole", "weight", np.zeros((0, 96), np.uint8)),
        ("gptq4 v2 by row", "qweight", np.zeros((0, 64), np.int32)),
    ],
)
def test_sizes_that_are_none_are_refused_by_name(name: str, part: str, array: np.ndarray, tmp_path: Path) -> None:
    format_ = FORMATS[name]
    tensors, _ = format_.make(np.random.default_rng(7), 64, 96)
    tensors |= {part: array}
    path = write(tmp_path, {format_.key: format_.settings}, {f"a.{n}": t for n, t in tensors.items()})
    with pytest.raises(CheckpointError, match=rf"a\.{part}: expected "):
        open_checkpoint(path)
