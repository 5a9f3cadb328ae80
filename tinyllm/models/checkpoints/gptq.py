"""GPTQ's and AWQ's folders: codes packed along one axis of the transposed matrix, with zeros as codes too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.bits import WORD, pack, unpack
from tinyllm.catalogue.schemes.zero_point import ZeroPoint
from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.checkpoint import checked_weight
from tinyllm.models.checkpoints.quantization import (
    Arrays,
    Layer,
    Quantization,
    Tensors,
    by_group,
    check_left_out,
    check_settings,
    grouped_layer,
    module_list,
    stems,
)
from tinyllm.spec.scheme import SCALES, QuantType, QuantWeight

_NAMES = (
    # how the weights were found, and by what: nothing of it is in the numbers that a file stands for
    "quant_method damp_percent damp_auto_increment static_groups true_sequential model_name_or_path meta "
    "model_file_base_name lm_head tokenizer dataset batch_size model_seqlen block_name_to_quantize pad_token_id "
    "module_name_preceding_first_block use_cuda_fp16 use_exllama disable_exllama max_input_length exllama_config "
    "cache_block_outputs modules_in_block_to_quantize backend hyb_act act_group_aware mse version do_fuse "
    "fuse_max_seq_len modules_to_fuse"
)
_UNSEEN = dict.fromkeys(_NAMES.split())
_AWQ_PLACES = {4: (0, 4, 1, 5, 2, 6, 3, 7), 8: (0, 2, 1, 3)}
"""By bits, the place in a word of each of its columns."""


@dataclass(frozen=True)
class Gptq(Quantization):
    """Codes of a column of K in words one below another; `qzeros` are one too small where `minus_one` says so. Each
    layer says the order of its columns where `ordered` or any other does.

    Source: GPTQModel, which owns the format: the 1 is added to whole words, so that a zero of 0 takes from its
    neighbour and gives back.
    """

    bits: int
    group_size: int
    minus_one: bool
    symmetric: bool
    ordered: bool

    @classmethod
    def read(cls, settings: dict[str, Any], where: str) -> Gptq:
        """From the config's settings. Raises `CheckpointError` for what is not understood."""
        understood: dict[str, Any] = {"bits": (2, 3, 4, 8), "group_size": None, "sym": (True, False)}
        understood |= {"checkpoint_format": ("gptq", "gptq_v2"), "format": ("gptq", "gptq_v2"), "dynamic": (None, {})}
        understood |= {"desc_act": (True, False, None)}
        understood |= {"pack_dtype": ("int32",), "is_marlin_format": (False,), "adapter": (None,), "rotation": (None,)}
        check_settings(where, settings, _UNSEEN | understood)
        format_ = settings.get("checkpoint_format", settings.get("format", "gptq"))
        bits, group_size = _bits_and_group(settings, where)
        ordered = settings.get("desc_act") is True and group_size != -1
        return cls(where, bits, group_size, format_ == "gptq", settings.get("sym") is True, ordered)

    def layers(self, stored: Tensors) -> dict[str, Layer]:
        needed = ["qweight", "qzeros", "scales"]
        if self.ordered or stems(stored, ".g_idx"):
            needed.append("g_idx")
        return {f"{stem}.weight": self._layer(stored, stem, needed) for stem in stems(stored, ".qweight")}

    def _layer(self, stored: Tensors, stem: str, needed: list[str]) -> Layer:
        parts = self.parts_of(stored, stem, needed)
        for part in ("qweight", "qzeros"):
            self.need_dtype(stored, parts[part], "int32")
        self.need_dtype(stored, parts["scales"], *SCALES)
        if len(stored[parts["qweight"]].shape) != 2:
            raise self.fail(parts["qweight"], "a matrix", list(stored[parts["qweight"]].shape))
        words, rows = stored[parts["qweight"]].shape
        columns = words * WORD // self.bits
        group = columns if self.group_size == -1 else self.group_size
        if columns % group:
            raise self.fail(parts["qweight"], f"columns that groups of {group} divide", columns)
        self.need_shape(stored, parts["scales"], (columns // group, rows))
        self.need_shape(stored, parts["qzeros"], (columns // group, rows * self.bits // WORD))
        stated = stored[parts["g_idx"]] if "g_idx" in parts else None
        if stated is not None:
            self.need_shape(stored, parts["g_idx"], (columns,))
            self.need_dtype(stored, parts["g_idx"], "int32", "int64")

        def order() -> NDArray[np.int32] | None:
            if stated is None:
                return None
            return by_group(f"{self.where}: {parts['g_idx']}", stated.read(), columns // group, group)

        def make(arrays: Arrays) -> dict[str, NDArray[Any]]:
            return {
                "q": np.ascontiguousarray(arrays["qweight"].T).view(np.uint32),
                "scales": np.ascontiguousarray(arrays["scales"].T),
                "zeros": np.ascontiguousarray(self._zeros(arrays["qzeros"], parts["qzeros"]).T),
            }

        scheme = ZeroPoint(self.bits, group)
        return grouped_layer(self.where, f"{stem}.weight", scheme, (rows, columns), parts, make, order)

    def _zeros(self, words: NDArray[np.int32], name: str) -> NDArray[np.uint8]:
        """`[groups, N]`, from their words."""
        count = words.shape[1] * WORD // self.bits
        stored: NDArray[np.uint32] = words.view(np.uint32)
        if self.minus_one and self.bits == 3:
            return self._zeros_of_3_bits(stored, name, count)
        if self.minus_one:
            with np.errstate(over="ignore"):
                stored = stored + pack(np, np.ones((1, count), np.uint8), self.bits)
        return np.asarray(unpack(np, stored, self.bits, count).astype(np.uint8))

    def _zeros_of_3_bits(self, words: NDArray[np.uint32], name: str, count: int) -> NDArray[np.uint8]:
        """AutoGPTQ packs each zero less 1, GPTQModel takes another number from whole words: what both meant is known
        where all zeros are in the middle alone."""
        ones, threes, middle = (pack(np, np.full((1, count), value), 3) for value in (1, 3, 4))
        with np.errstate(over="ignore"):
            whole = middle - ones.reshape(-1, 3)[:, ::-1].reshape(1, -1)
        if not (self.symmetric and any((words == each).all() for each in (threes, whole))):
            raise CheckpointError(
                f"{self.where}: {name}: expected zeros of 3 bits as gptq_v2 has them, got those of gptq, which "
                f"writers disagree on; convert the folder to gptq_v2"
            )
        return np.full((len(words), count), 4, np.uint8)


@dataclass(frozen=True)
class Awq(Quantization):
    """Codes of neighbouring rows of the weight in a word, in an order of their own. Source: AutoAWQ, version
    `gemm`."""

    bits: int
    group_size: int
    left_out: tuple[str, ...]

    @classmethod
    def read(cls, settings: dict[str, Any], where: str) -> Awq:
        """From the config's settings. Raises `CheckpointError` for what is not understood."""
        understood: dict[str, Any] = {"bits": (4, 8), "group_size": None, "modules_to_not_convert": None}
        understood |= {"zero_point": (True,), "version": ("gemm", "GEMM"), "format": ("gemm", "GEMM"), "sym": None}
        check_settings(where, settings, _UNSEEN | understood)
        left_out = module_list(where, "modules_to_not_convert", settings.get("modules_to_not_convert"))
        return cls(where, *_bits_and_group(settings, where), left_out)

    def layers(self, stored: Tensors) -> dict[str, Layer]:
        modules = stems(stored, ".qweight")
        check_left_out(self.where, "modules_to_not_convert", self.left_out, modules)
        return {f"{stem}.weight": self._layer(stored, stem) for stem in modules}

    def _layer(self, stored: Tensors, stem: str) -> Layer:
        parts = self.parts_of(stored, stem, ("qweight", "qzeros", "scales"))
        for part in ("qweight", "qzeros"):
            self.need_dtype(stored, parts[part], "int32")
        self.need_dtype(stored, parts["scales"], *SCALES)
        if len(stored[parts["qweight"]].shape) != 2:
            raise self.fail(parts["qweight"], "a matrix", list(stored[parts["qweight"]].shape))
        columns, words = stored[parts["qweight"]].shape
        rows, group = words * WORD // self.bits, columns if self.group_size == -1 else self.group_size
        if columns % group or columns * self.bits % WORD:
            raise self.fail(parts["qweight"], f"columns that groups of {group} divide and whole words hold", columns)
        self.need_shape(stored, parts["scales"], (columns // group, rows))
        self.need_shape(stored, parts["qzeros"], (columns // group, words))
        scheme, shape = ZeroPoint(self.bits, group), (rows, columns)

        def make(arrays: Arrays) -> QuantWeight:
            made = {
                "q": pack(np, self._codes(arrays["qweight"]).T, self.bits),
                "scales": np.ascontiguousarray(arrays["scales"].T),
                "zeros": np.ascontiguousarray(self._codes(arrays["qzeros"]).T),
            }
            return checked_weight(self.where, f"{stem}.weight", QuantWeight(scheme, made, shape))

        return Layer(QuantType(shape, scheme), parts, make)

    def _codes(self, words: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Codes `[..., N]` of words `[..., N * bits / 32]`."""
        shifts = np.array(_AWQ_PLACES[self.bits], np.uint32) * np.uint32(self.bits)
        codes = (words.view(np.uint32)[..., None] >> shifts) & np.uint32(2**self.bits - 1)
        return codes.astype(np.uint8).reshape(*words.shape[:-1], -1)


def _bits_and_group(settings: dict[str, Any], where: str) -> tuple[int, int]:
    for key in ("bits", "group_size"):
        if key not in settings:
            raise CheckpointError(f"{where}.{key}: expected a number, got none")
    group_size = settings["group_size"]
    if type(group_size) is not int or (group_size != -1 and not 1 <= group_size <= 2**31):
        raise CheckpointError(f"{where}.group_size: expected -1 or a positive integer, got {quoted(group_size)}")
    return settings["bits"], group_size
