"""Folders of every quantized format: tensors with random codes, and the numbers that the format's documentation says
that they stand for, worked out in float64 from the codes before they are packed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tinyllm.catalogue.schemes.floats import NF4

Rng = np.random.Generator
Made = tuple[dict[str, np.ndarray], np.ndarray]
"""Tensors by the end of their name, and the matrix `[N, K]`."""

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@dataclass(frozen=True)
class Format:
    """A format: its settings in `config.json`, and how a weight of it is made."""

    settings: dict[str, Any]
    make: Callable[[Rng, int, int], Made]
    key: str = "quantization_config"


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows as little-endian bit streams in int32 words."""
    flags = (codes[..., None] >> np.arange(bits)) & 1
    rows = flags.reshape(len(codes), -1).astype(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 32)))
    return np.packbits(rows, axis=1, bitorder="little").view("<i4")


def scales_of(rng: Rng, *shape: int, size: float = 0.02) -> np.ndarray:
    return rng.uniform(size / 2, size, shape).astype(np.float16)


def spread(groups: np.ndarray, size: int) -> np.ndarray:
    return np.repeat(groups.astype(np.float64), size, axis=1)


def gptq(bits: int, group: int, one: int = 1, ordered: bool = False) -> Callable[[Rng, int, int], Made]:
    """`scale * (code - zero)`, all transposed, zeros less `one`. ordered: columns of a group lie anywhere."""

    def make(rng: Rng, rows: int, columns: int) -> Made:
        size = columns if group == -1 else group
        codes = rng.integers(0, 2**bits, (rows, columns))
        zeros = rng.integers(one, 2**bits, (rows, columns // size))
        scales = scales_of(rng, rows, columns // size, size=0.3 / 2**bits)
        groups = np.arange(columns) // size
        if ordered:
            groups = rng.permutation(groups)
        matrix = scales.astype(np.float64)[:, groups] * (codes - zeros[:, groups])
        tensors = {"qweight": stream(codes, bits).T, "qzeros": stream((zeros - one).T, bits), "scales": scales.T}
        return {**tensors, "g_idx": groups.astype(np.int32)}, matrix

    return make


def awq(bits: int, group: int) -> Callable[[Rng, int, int], Made]:
    order = {4: [0, 2, 4, 6, 1, 3, 5, 7], 8: [0, 2, 1, 3]}[bits]

    def words(codes: np.ndarray) -> np.ndarray:
        return stream(codes.reshape(len(codes), -1, len(order))[..., order].reshape(codes.shape), bits)

    def make(rng: Rng, rows: int, columns: int) -> Made:
        codes = rng.integers(0, 2**bits, (rows, columns))
        zeros = rng.integers(0, 2**bits, (rows, columns // group))
        scales = scales_of(rng, rows, columns // group, size=0.3 / 2**bits)
        matrix = spread(scales, group) * (codes - spread(zeros, group))
        return {"qweight": words(codes.T), "qzeros": words(zeros.T), "scales": scales.T}, matrix

    return make


def integers(bits: int, group: int, symmetric: bool, packed: bool) -> Callable[[Rng, int, int], Made]:
    """compressed-tensors: signed integers, packed with `2^(bits - 1)` added. group 0: a scale a row."""

    def make(rng: Rng, rows: int, columns: int) -> Made:
        middle, size = 2 ** (bits - 1), group or columns
        codes = rng.integers(-middle, middle, (rows, columns))
        zeros = np.zeros((rows, columns // size), int)
        scales = scales_of(rng, rows, columns // size, size=0.3 / 2**bits)
        if not symmetric:
            zeros = rng.integers(-middle, middle, zeros.shape)
        tensors = {"weight_scale": scales}
        if packed:
            tensors |= {"weight_packed": stream(codes + middle, bits), "weight_shape": np.array([rows, columns])}
        else:
            tensors["weight"] = codes.astype(np.int8)
        if not symmetric:
            held = stream((zeros + middle).T, bits).T if packed else zeros.astype(np.int8)
            tensors["weight_zero_point"] = held
        return tensors, spread(scales, size) * (codes - spread(zeros, size))

    return make


def float8(block: tuple[int, int] | None, scale: str, dtype: Any = np.float32) -> Callable[[Rng, int, int], Made]:
    """Numbers times the scale of their block, which may be cut at the edges. block: None: one scale for all; 0 columns:
    one for each row."""

    def make(rng: Rng, rows: int, columns: int) -> Made:
        numbers = (rng.standard_normal((rows, columns)) * 64).astype(ml_dtypes.float8_e4m3fn)
        if block is None:
            scales = np.array(rng.uniform(0.001, 0.002), np.float32)
            return {"weight": numbers, scale: scales}, numbers.astype(np.float64) * np.float64(scales)
        height, width = block[0], block[1] or columns
        shape = -(-rows // height), -(-columns // width)
        scales = (
            np.exp2(rng.integers(-10, -8, shape))
            if dtype == ml_dtypes.float8_e8m0fnu
            else rng.uniform(1e-3, 2e-3, shape)
        )
        scales = scales.astype(dtype)
        every = np.repeat(np.repeat(scales.astype(np.float64), height, axis=0), width, axis=1)[:rows, :columns]
        return {"weight": numbers, scale: scales}, numbers.astype(np.float64) * every

    return make


def mxfp4(codes: str, scales: str, words: bool) -> Callable[[Rng, int, int], Made]:
    def make(rng: Rng, rows: int, columns: int) -> Made:
        q = rng.integers(0, 16, (rows, columns))
        exponents = rng.integers(119, 124, (rows, columns // 32)).astype(np.uint8)
        packed = stream(q, 4).view(np.uint32 if words else np.uint8)
        return {codes: packed, scales: exponents}, E2M1[q] * np.exp2(spread(exponents, 32) - 127)

    return make


def mxfp8(scales: str, words: bool) -> Callable[[Rng, int, int], Made]:
    def make(rng: Rng, rows: int, columns: int) -> Made:
        numbers = (rng.standard_normal((rows, columns)) * 64).astype(ml_dtypes.float8_e4m3fn)
        exponents = rng.integers(117, 120, (rows, columns // 32)).astype(np.uint8)
        held = numbers.view(np.uint32) if words else numbers
        return {"weight": held, scales: exponents}, numbers.astype(np.float64) * np.exp2(spread(exponents, 32) - 127)

    return make


def nvfp4(mlx: bool) -> Callable[[Rng, int, int], Made]:
    """compressed-tensors has a number that all scales are divided by."""

    def make(rng: Rng, rows: int, columns: int) -> Made:
        q = rng.integers(0, 16, (rows, columns))
        by_group = rng.uniform(*((0.02, 0.1) if mlx else (50, 300)), (rows, columns // 16)).astype(
            ml_dtypes.float8_e4m3fn
        )
        matrix = E2M1[q] * spread(by_group, 16)
        if mlx:
            return {"weight": stream(q, 4).view(np.uint32), "scales": by_group.view(np.uint8)}, matrix
        whole = np.array([rng.uniform(3000, 6000)], np.float32)
        tensors = {"weight_packed": stream(q, 4).view(np.uint8), "weight_scale": by_group, "weight_global_scale": whole}
        return tensors, matrix / np.float64(whole)

    return make


def nf4(nested: bool) -> Callable[[Rng, int, int], Made]:
    """bitsandbytes: the first number in the upper bits; scales as codes of a table, by blocks, around an offset."""

    def make(rng: Rng, rows: int, columns: int) -> Made:
        block = 64 if columns % 64 == 0 else 32
        q, blocks = rng.integers(0, 16, (rows, columns)), rows * columns // block
        scales = rng.uniform(0.05, 0.2, blocks).astype(np.float32)
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": [rows, columns]}
        tensors = {"weight": (q[:, ::2] << 4 | q[:, 1::2]).astype(np.uint8).reshape(-1, 1), "weight.quant_map": NF4}
        if nested:
            codes, table = rng.integers(0, 256, blocks).astype(np.uint8), np.linspace(-1, 1, 256).astype(np.float32)
            upper = rng.uniform(0.01, 0.05, -(-blocks // 16)).astype(np.float32)
            state |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": 0.1}
            tensors |= {"weight.nested_absmax": upper, "weight.nested_quant_map": table, "weight.absmax": codes}
            scales = table.astype(np.float64)[codes] * np.repeat(upper.astype(np.float64), 16)[:blocks] + 0.1
        else:
            tensors["weight.absmax"] = scales
        tensors["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        matrix = NF4.astype(np.float64)[q] * np.repeat(scales.astype(np.float64), block).reshape(rows, columns)
        return tensors, matrix

    return make


def compressed(format_: str, **weights: Any) -> dict[str, Any]:
    defaults = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    group = {"targets": ["Linear"], "weights": defaults | weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*gate$"],
        "quantization_status": "compressed",
    }


_GPTQ = {"quant_method": "gptq", "group_size": 32, "sym": False}
_MLX = {"group_size": 32, "bits": 4}
_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
_NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
_FLOAT4 = {"num_bits": 4, "type": "float"}
POWERS = ml_dtypes.float8_e8m0fnu

FORMATS: Mapping[str, Format] = {
    **{f"gptq{bits}": Format(_GPTQ | {"bits": bits}, gptq(bits, 32)) for bits in (2, 4, 8)},
    "gptq3 v2": Format(_GPTQ | {"bits": 3, "checkpoint_format": "gptq_v2"}, gptq(3, 32, 0)),
    "gptq4 v2 by row": Format(_GPTQ | {"bits": 4, "group_size": -1, "checkpoint_format": "gptq_v2"}, gptq(4, -1, 0)),
    "gptq4 ordered": Format(_GPTQ | {"bits": 4, "desc_act": True}, gptq(4, 32, 1, True)),
    "gptq3 ordered": Format(_GPTQ | {"bits": 3, "checkpoint_format": "gptq_v2"}, gptq(3, 32, 0, True)),
    "awq4": Format(
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, awq(4, 32)
    ),
    "awq8": Format({"quant_method": "awq", "bits": 8, "group_size": 32}, awq(8, 32)),
    "w4 groups": Format(
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=32), integers(4, 32, True, True)
    ),
    "w4 zeros": Format(
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False),
        integers(4, 32, False, True),
    ),
    "w4 rows": Format(compressed("pack-quantized", num_bits=4), integers(4, 0, True, True)),
    "w8": Format(compressed("int-quantized"), integers(8, 0, True, False)),
    "w8 zeros": Format(compressed("int-quantized", symmetric=False), integers(8, 0, False, False)),
    "compressed fp8": Format(
        compressed("float-quantized", type="float"), float8((1, 0), "weight_scale", ml_dtypes.bfloat16)
    ),
    "compressed fp8 whole": Format(
        compressed("naive-quantized", type="float", strategy="tensor"), float8(None, "weight_scale")
    ),
    "compressed fp8 blocks": Format(
        compressed("float-quantized", type="float", strategy="block", block_structure=[40, 48]),
        float8((40, 48), "weight_scale"),
    ),
    "fp8 blocks": Format(_FP8 | {"weight_block_size": [40, 48]}, float8((40, 48), "weight_scale_inv")),
    "fp8 powers": Format(
        _FP8 | {"weight_block_size": [40, 48], "scale_fmt": "ue8m0"}, float8((40, 48), "weight_scale_inv", POWERS)
    ),
    "fp8 whole": Format(_FP8 | {"activation_scheme": "static"}, float8(None, "weight_scale_inv")),
    "mlx mxfp4": Format(_MLX | {"mode": "mxfp4"}, mxfp4("weight", "scales", True), "quantization"),
    "mlx mxfp8": Format(_MLX | {"mode": "mxfp8", "bits": 8}, mxfp8("scales", True), "quantization"),
    "mlx nvfp4": Format(_MLX | {"mode": "nvfp4", "group_size": 16}, nvfp4(True), "quantization"),
    "compressed mxfp4": Format(
        compressed("mxfp4-pack-quantized", strategy="group", group_size=32, **_FLOAT4),
        mxfp4("weight_packed", "weight_scale", False),
    ),
    "compressed mxfp8": Format(
        compressed("mxfp8-quantized", strategy="group", group_size=32, type="float"), mxfp8("weight_scale", False)
    ),
    "compressed nvfp4": Format(
        compressed("nvfp4-pack-quantized", strategy="tensor_group", group_size=16, **_FLOAT4), nvfp4(False)
    ),
    "nf4": Format(_NF4, nf4(False)),
    "nf4 nested": Format(_NF4 | {"bnb_4bit_use_double_quant": True}, nf4(True)),
}


def write(folder: Path, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    """A folder of a config and tensors, numpy's and those of `ml_dtypes`."""
    import torch
    from safetensors.torch import save_file

    special = {
        np.dtype(ml_dtypes.bfloat16): (np.int16, torch.bfloat16),
        np.dtype(ml_dtypes.float8_e4m3fn): (np.uint8, torch.float8_e4m3fn),
        np.dtype(POWERS): (np.uint8, torch.float8_e8m0fnu),
        np.dtype(np.uint32): (np.int32, torch.uint32),
    }
    made = {}
    for name, array in tensors.items():
        array = np.ascontiguousarray(array) if array.ndim else array
        raw, kind = special.get(array.dtype, (None, None))
        made[name] = (
            torch.from_numpy(array.copy()) if raw is None else torch.from_numpy(array.view(raw).copy()).view(kind)
        )
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(made, folder / "model.safetensors")
    return folder
