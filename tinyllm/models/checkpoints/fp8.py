"""The method fp8, floats of 8 bits with scales by block, and gpt-oss's method mxfp4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.float_layers import FLOAT8, fp8_layer, mxfp4_layer
from tinyllm.models.checkpoints.quantization import (
    Layer,
    Quantization,
    Tensors,
    check_left_out,
    check_settings,
    module_list,
    stems,
)

_LISTS = ("modules_to_not_convert", "ignored_layers")


@dataclass(frozen=True)
class BlockFp8(Quantization):
    """`weight` beside `weight_scale_inv`, which it is multiplied by, or `weight_scale`. Source: transformers'
    `FineGrainedFP8Config`."""

    block: tuple[int, int] | None
    left_out: tuple[str, ...]
    unused = (".input_scale", ".activation_scale")

    @classmethod
    def read(cls, settings: dict[str, Any], where: str) -> BlockFp8:
        """From the config's settings. Raises `CheckpointError` for what is not understood."""
        understood: dict[str, Any] = dict.fromkeys(("quant_method", "weight_block_size", *_LISTS, "modules_to_convert"))
        # activations are not quantized here, which only comes nearer to the model
        understood |= {"activation_scheme": ("dynamic", "static"), "fmt": ("e4m3",), "scale_fmt": ("float", "ue8m0")}
        understood |= {"dequantize": (True, False), "expert_dtype": ("fp8",)}
        check_settings(where, settings, understood)
        block = settings.get("weight_block_size")
        if block is not None and not (
            isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)
        ):
            raise CheckpointError(f"{where}.weight_block_size: expected rows and columns, got {quoted(block)}")
        return cls(where, tuple(block) if block else None, _left_out(settings, where))

    def layers(self, stored: Tensors) -> dict[str, Layer]:
        made = {}
        for ending in (".weight_scale_inv", ".weight_scale"):
            for stem in stems(stored, ending):
                parts = self.parts_of(stored, stem, ("weight", ending[1:]))
                self.need_dtype(stored, parts["weight"], FLOAT8)
                block = self.block
                if stored[parts[ending[1:]]].shape in ((), (1,)):
                    block = None
                made[f"{stem}.weight"] = fp8_layer(self, stored, stem, parts, block or (1, 0))
        check_left_out(self.where, _LISTS[0], self.left_out, (name.removesuffix(".weight") for name in made))
        return made


@dataclass(frozen=True)
class GptOssMxfp4(Quantization):
    """Experts as `NAME_blocks` uint8 `[E, N, K / 32, 16]` and `NAME_scales` uint8 `[E, N, K / 32]`: the weight
    `NAME_blocks`, `[E, N, K]`. Its rows are outputs; those of a `NAME` of floats are inputs. Source: transformers'
    `Mxfp4Config`."""

    left_out: tuple[str, ...]

    @classmethod
    def read(cls, settings: dict[str, Any], where: str) -> GptOssMxfp4:
        """From the config's settings. Raises `CheckpointError` for what is not understood."""
        understood: dict[str, Any] = dict.fromkeys(("quant_method", *_LISTS))
        check_settings(where, settings, understood | {"dequantize": (True, False)})
        return cls(where, _left_out(settings, where))

    def layers(self, stored: Tensors) -> dict[str, Layer]:
        made = {}
        for name in stems(stored, "_blocks"):
            if f"{name}_scales" not in stored:
                raise self.fail(name, "the tensors _blocks and _scales", "the blocks alone")
            parts = {"blocks": f"{name}_blocks", "scales": f"{name}_scales"}
            made[parts["blocks"]] = mxfp4_layer(self, stored, name, parts)
        return made


def _left_out(settings: dict[str, Any], where: str) -> tuple[str, ...]:
    return tuple(entry for key in _LISTS for entry in module_list(where, key, settings.get(key)))
