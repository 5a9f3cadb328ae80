"""Folders of compressed-tensors: integers packed or whole, and floats of 8 and 4 bits, by groups of modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.affine import BITS
from tinyllm.catalogue.schemes.bits import WORD, unpack
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.catalogue.schemes.zero_point import ZeroPoint
from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.checkpoint import checked_weight
from tinyllm.models.checkpoints.float_layers import FLOAT8, fp4_layer, fp8_layer, mxfp4_layer, mxfp8_layer
from tinyllm.models.checkpoints.quantization import (
    Arrays,
    Layer,
    Quantization,
    Tensors,
    by_group,
    check_left_out,
    check_settings,
    grouped_layer,
    matches,
    module_list,
    stems,
)
from tinyllm.spec.scheme import SCALES, QuantType, QuantWeight, Scheme

_WHOLE = ("int-quantized", "float-quantized", "naive-quantized")
_FORMATS = (*_WHOLE, "pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized")
_ORDERED = ("group", "dynamic", True)
"""Values of `actorder` with which each layer says the order of its columns."""


@dataclass(frozen=True)
class _Group:
    """Modules whose weights are quantized alike."""

    targets: tuple[str, ...]
    format: str
    bits: int
    floats: bool
    symmetric: bool
    group_size: int
    """0: a scale for each row or for all."""
    block: tuple[int, int] | None
    ordered: bool
    """Columns lie in an order of their own, which each layer says."""

    @classmethod
    def read(cls, settings: Any, format_: Any, where: str) -> _Group:
        """From a config's group. Raises `CheckpointError` for what is not understood."""
        if not isinstance(settings, dict) or not isinstance(settings.get("weights"), dict):
            raise CheckpointError(f"{where}.weights: expected the settings of weights, got {quoted(settings)}")
        # activations are not quantized here, which only comes nearer to the model
        understood: dict[str, Any] = dict.fromkeys(("targets", "weights", "input_activations"))
        check_settings(where, settings, understood | {"output_activations": (None,), "format": (None, *_FORMATS)})
        format_ = settings.get("format") or format_
        if format_ not in _FORMATS:
            raise CheckpointError(f"{where}.format: expected one of {', '.join(_FORMATS)}, got {quoted(format_)}")
        weights: dict[str, Any] = settings["weights"]
        where += ".weights"
        understood = dict.fromkeys(("observer", "observer_kwargs", "scale_dtype", "zp_dtype"))
        understood |= {"num_bits": (*BITS,), "type": ("int", "float"), "symmetric": (True, False), "dynamic": (False,)}
        understood |= {"strategy": ("tensor", "channel", "group", "block", "tensor_group")}
        understood |= {"group_size": None, "block_structure": None, "head_dim": (None,)}
        understood |= {"actorder": (*_ORDERED, None, False, "weight", "static")}
        check_settings(where, weights, understood)
        block, group_size = weights.get("block_structure"), weights.get("group_size")
        if block is not None and not (isinstance(block, list) and len(block) == 2 and all(map(_is_size, block))):
            raise CheckpointError(f"{where}.block_structure: expected rows and columns, got {quoted(block)}")
        if group_size not in (None, -1) and not _is_size(group_size):
            raise CheckpointError(f"{where}.group_size: expected a positive integer, got {quoted(group_size)}")
        grouped = weights.get("strategy") in ("group", "tensor_group")
        if grouped and not _is_size(group_size):
            raise CheckpointError(f"{where}.group_size: expected a positive integer, got {quoted(group_size)}")
        if (weights.get("strategy") == "block") != (block is not None):
            raise CheckpointError(f"{where}.block_structure: expected it with the strategy block, got {quoted(block)}")
        targets = module_list(where, "targets", settings.get("targets"))
        return cls(
            targets,
            format_,
            weights.get("num_bits", 8),
            weights.get("type", "int") == "float",
            weights.get("symmetric", True),
            int(group_size or 0) if grouped else 0,
            tuple(block) if block else None,
            weights.get("actorder") in _ORDERED,
        )


@dataclass(frozen=True)
class CompressedTensors(Quantization):
    """Groups of modules with a form each. Source: the package compressed-tensors."""

    groups: tuple[_Group, ...]
    left_out: tuple[str, ...]
    unused = (".input_scale", ".input_zero_point", ".input_global_scale")

    @classmethod
    def read(cls, settings: dict[str, Any], where: str) -> CompressedTensors:
        """From the config's settings. Raises `CheckpointError` for what is not understood."""
        understood: dict[str, Any] = dict.fromkeys(("quant_method", "format", "config_groups", "ignore", "version"))
        understood |= {"kv_cache_scheme": (None,), "sparsity_config": (None, {}), "transform_config": (None, {})}
        understood |= {"global_compression_ratio": None, "quantization_status": ("compressed",)}
        check_settings(where, settings, understood)
        groups = settings.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise CheckpointError(f"{where}.config_groups: expected an object of groups, got {quoted(groups)}")
        read = tuple(
            _Group.read(group, settings.get("format"), f"{where}.config_groups.{shortened(name)}")
            for name, group in groups.items()
        )
        return cls(where, read, module_list(where, "ignore", settings.get("ignore")))

    def layers(self, stored: Tensors) -> dict[str, Layer]:
        modules = stems(stored, ".weight_scale")
        check_left_out(self.where, "ignore", self.left_out, modules)
        return {f"{stem}.weight": self._layer(stored, stem, self._group_of(stem)) for stem in modules}

    def _group_of(self, module: str) -> _Group:
        named = [group for group in self.groups if any(matches(target, module) for target in group.targets)]
        linear = [group for group in self.groups if "Linear" in group.targets]
        if not (named or linear):
            raise self.fail(module, "a group of config_groups that has it", "none")
        return (named or linear)[0]

    def _layer(self, stored: Tensors, stem: str, group: _Group) -> Layer:
        if group.format == "pack-quantized":
            return self._packed(stored, stem, group)
        if group.format in _WHOLE and not group.floats:
            return self._integers(stored, stem, group)
        if group.format == "nvfp4-pack-quantized":
            parts = self.parts_of(stored, stem, ("weight_packed", "weight_scale", "weight_global_scale"))
            return fp4_layer(self, stored, stem, parts)
        if group.format == "mxfp4-pack-quantized":
            return mxfp4_layer(self, stored, stem, self.parts_of(stored, stem, ("weight_packed", "weight_scale")))
        parts = self.parts_of(stored, stem, ("weight", "weight_scale"))
        if group.format == "mxfp8-quantized":
            return mxfp8_layer(self, stored, stem, parts)
        self.need_dtype(stored, parts["weight"], FLOAT8)
        return fp8_layer(self, stored, stem, parts, group.block or (1, group.group_size))

    def _packed(self, stored: Tensors, stem: str, group: _Group) -> Layer:
        """Integers in words, `2^(bits - 1)` added to each."""
        needed = ("weight_packed", "weight_scale", "weight_shape", *(() if group.symmetric else ("weight_zero_point",)))
        needed += ("weight_g_idx",) if group.ordered else ()
        parts = self.parts_of(stored, stem, needed, ("weight_g_idx",))
        kinds = {"weight_scale": SCALES, "weight_shape": ("int64", "int32"), "weight_g_idx": ("int64", "int32")}
        for part in parts:
            self.need_dtype(stored, parts[part], *kinds.get(part, ("int32",)))
        self.need_shape(stored, parts["weight_shape"], (2,))
        rows, columns = (int(size) for size in stored[parts["weight_shape"]].read())
        if rows < 1 or columns < 1:
            raise self.fail(parts["weight_shape"], "two sizes", [rows, columns])
        self.need_shape(stored, parts["weight_packed"], (rows, -(-columns * group.bits // WORD)))
        scheme = ZeroPoint(group.bits, group.group_size or columns, group.symmetric)
        groups = columns // scheme.group_size
        self._need_scales(stored, parts["weight_scale"], rows, columns, scheme.group_size)
        if not group.symmetric:
            self.need_shape(stored, parts["weight_zero_point"], (-(-rows * group.bits // WORD), groups))
        stated = stored[parts["weight_g_idx"]] if "weight_g_idx" in parts else None
        if stated is not None:
            self.need_shape(stored, parts["weight_g_idx"], (columns,))

        def order() -> NDArray[np.int32] | None:
            return None if stated is None else by_group(self.where, stated.read(), groups, scheme.group_size)

        def make(arrays: Arrays) -> dict[str, NDArray[Any]]:
            made = {"q": arrays["weight_packed"].view(np.uint32), "scales": _rows(arrays["weight_scale"], rows)}
            if not group.symmetric:
                words = np.ascontiguousarray(arrays["weight_zero_point"].T).view(np.uint32)
                zeros = unpack(np, words, group.bits, words.shape[1] * WORD // group.bits)[:, :rows]
                made["zeros"] = np.ascontiguousarray(zeros.T.astype(np.uint8))
            return made

        return grouped_layer(self.where, f"{stem}.weight", scheme, (rows, columns), parts, make, order)

    def _integers(self, stored: Tensors, stem: str, group: _Group) -> Layer:
        """A byte for each; where they are not symmetric, taken as unsigned ones."""
        needed = ("weight", "weight_scale", *(() if group.symmetric else ("weight_zero_point",)))
        parts = self.parts_of(stored, stem, needed)
        self.need_dtype(stored, parts["weight"], "int8")
        if group.bits > 8 or group.block:
            raise self.fail(stem, "integers of up to 8 bits without blocks", group.format)
        if len(stored[parts["weight"]].shape) != 2 or stored[parts["weight"]].shape[1] % 4:
            raise self.fail(parts["weight"], "a matrix whose rows fill words", list(stored[parts["weight"]].shape))
        rows, columns = stored[parts["weight"]].shape
        size = group.group_size or columns
        scheme: Scheme = Int8(size) if group.symmetric else ZeroPoint(8, size)
        self._need_scales(stored, parts["weight_scale"], rows, columns, size)
        if not group.symmetric:
            self.need_dtype(stored, parts["weight_zero_point"], "int8")
            self._need_scales(stored, parts["weight_zero_point"], rows, columns, size, ("int8",))

        def make(arrays: Arrays) -> QuantWeight:
            made = {"q": arrays["weight"], "scales": _rows(arrays["weight_scale"], rows)}
            if not group.symmetric:
                made["q"] = (made["q"].view(np.uint8) ^ 128).view(np.uint32)
                made["zeros"] = _rows(arrays["weight_zero_point"], rows).view(np.uint8) ^ 128
            return checked_weight(self.where, f"{stem}.weight", QuantWeight(scheme, made, (rows, columns)))

        return Layer(QuantType((rows, columns), scheme), parts, make)

    def _need_scales(
        self, stored: Tensors, name: str, rows: int, columns: int, size: int, dtypes: tuple[str, ...] = SCALES
    ) -> None:
        """Scales of each group of each row, or one of all where a group is a row."""
        self.need_dtype(stored, name, *dtypes)
        if size == columns and stored[name].shape in ((), (1,), (1, 1)):
            return
        if columns % size:
            raise self.fail(name, f"columns that groups of {size} divide", columns)
        self.need_shape(stored, name, (rows, columns // size))


def _rows(scales: NDArray[Any], rows: int) -> NDArray[Any]:
    """Scales with a row for each of the weight's."""
    return (
        scales if scales.ndim == 2 and len(scales) == rows else np.full((rows, 1), scales.reshape(-1)[0], scales.dtype)
    )


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0
