"""The method bitsandbytes, of 4 bits and the type nf4: codes with a scale for each block, the scales perhaps quantized
in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.floats import NF4, Nf4
from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.checkpoint import checked_weight
from tinyllm.models.checkpoints.files import json_object
from tinyllm.models.checkpoints.quantization import (
    Arrays,
    Layer,
    Quantization,
    Tensors,
    check_left_out,
    check_settings,
    module_list,
    stems,
)
from tinyllm.spec.scheme import QuantType, QuantWeight

_STATE = "weight.quant_state.bitsandbytes__nf4"
_UNSEEN = (
    "quant_method _load_in_4bit _load_in_8bit bnb_4bit_compute_dtype bnb_4bit_use_double_quant llm_int8_threshold "
    "llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight llm_int8_skip_modules"
)
"""Settings of how products are computed, and what the tensors say themselves."""
_NESTED = ("weight.nested_absmax", "weight.nested_quant_map")


@dataclass(frozen=True)
class Bitsandbytes(Quantization):
    """Source: bitsandbytes' `QuantState`."""

    left_out: tuple[str, ...]

    @classmethod
    def read(cls, settings: dict[str, Any], where: str) -> Bitsandbytes:
        """From the config's settings. Raises `CheckpointError` for what is not understood."""
        understood: dict[str, Any] = dict.fromkeys(_UNSEEN.split())
        understood |= {"load_in_4bit": (True,), "load_in_8bit": (False,), "bnb_4bit_quant_type": ("nf4",)}
        check_settings(where, settings, understood | {"bnb_4bit_quant_storage": ("uint8",)})
        if settings.get("load_in_4bit") is not True or settings.get("bnb_4bit_quant_type") != "nf4":
            raise CheckpointError(f"{where}.bnb_4bit_quant_type: expected nf4 of 4 bits, got {quoted(settings)}")
        return cls(where, module_list(where, "llm_int8_skip_modules", settings.get("llm_int8_skip_modules")))

    def layers(self, stored: Tensors) -> dict[str, Layer]:
        modules = stems(stored, f".{_STATE}")
        check_left_out(self.where, "llm_int8_skip_modules", self.left_out, modules)
        return {f"{stem}.weight": self._layer(stored, stem) for stem in modules}

    def _layer(self, stored: Tensors, stem: str) -> Layer:
        parts = self.parts_of(stored, stem, ("weight", "weight.absmax", "weight.quant_map", _STATE), _NESTED)
        where = f"{self.where}: {stem}.{_STATE}"
        state = json_object(stored[parts[_STATE]].read().tobytes(), where)
        nested = "nested_blocksize" in state
        understood: dict[str, Any] = dict.fromkeys(("dtype", "shape", "blocksize", "nested_blocksize", "nested_offset"))
        check_settings(where, state, understood | {"quant_type": ("nf4",), "nested_dtype": ("float32",)})
        shape: Any = state.get("shape")
        block: Any = state.get("blocksize")
        if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_size, (*shape, block))):
            raise CheckpointError(f"{where}: expected a shape of two sizes and a blocksize, got {quoted(state)}")
        rows, columns = shape
        if columns % block:
            raise CheckpointError(f"{where}: expected columns that blocks of {block} divide, got {columns}")
        blocks = rows * columns // block
        self.need_dtype(stored, parts["weight"], "uint8")
        self.need_shape(stored, parts["weight"], (rows * columns // 2, 1))
        self.need_dtype(stored, parts["weight.absmax"], "uint8" if nested else "float32")
        self.need_shape(stored, parts["weight.absmax"], (blocks,))
        self.need_dtype(stored, parts["weight.quant_map"], "float32")
        if nested:
            size, offset = state["nested_blocksize"], state.get("nested_offset")
            if not _is_size(size) or not isinstance(offset, (int, float)) or not all(part in parts for part in _NESTED):
                raise CheckpointError(f"{where}: expected nested_blocksize, nested_offset and {', '.join(_NESTED)}")
            for part, count in zip(_NESTED, (-(-blocks // size), 256), strict=True):
                self.need_dtype(stored, parts[part], "float32")
                self.need_shape(stored, parts[part], (count,))
        scheme = Nf4(int(block))

        def make(arrays: Arrays) -> QuantWeight:
            if not np.array_equal(arrays["weight.quant_map"], NF4):
                raise self.fail(parts["weight.quant_map"], "the table of nf4", "another one")
            octets = arrays["weight"].reshape(rows, columns // 2)
            scales = arrays["weight.absmax"]
            if nested:
                scales = _unnested(arrays, state["nested_blocksize"], state["nested_offset"])
            made = {"q": (octets >> 4 | octets << 4).view(np.uint32), "scales": scales.reshape(rows, columns // block)}
            return checked_weight(self.where, f"{stem}.weight", QuantWeight(scheme, made, (rows, columns)))

        return Layer(QuantType((rows, columns), scheme), parts, make)


def _unnested(arrays: Arrays, block: int, offset: float) -> NDArray[np.float32]:
    """Scales that are codes of a table, with a scale for each block of them, around an offset."""
    codes = arrays["weight.absmax"]
    scales = np.repeat(arrays["weight.nested_absmax"], block)[: len(codes)]
    numbers: NDArray[np.float32] = arrays["weight.nested_quant_map"][codes] * scales + np.float32(offset)
    return numbers


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0
