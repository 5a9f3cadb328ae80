"""MLX's quantized checkpoints: `quantization` in the config, and `.scales`, in the mode affine also `.biases`, beside
each packed `.weight`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyllm.catalogue.schemes.affine import BITS, Affine
from tinyllm.catalogue.schemes.bits import WORD
from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.checkpoint import checked_weight
from tinyllm.models.checkpoints.float_layers import fp4_layer, mxfp4_layer, mxfp8_layer
from tinyllm.models.checkpoints.quantization import Arrays, Layer, Quantization, Tensors, stems
from tinyllm.models.families.ranges import integer_expected, is_integer
from tinyllm.spec.scheme import QuantType, QuantWeight

_FLOATS = {"mxfp4": (4, 32, mxfp4_layer), "mxfp8": (8, 32, mxfp8_layer), "nvfp4": (4, 16, fp4_layer)}
"""Modes whose numbers are floats: bits, group size and reader."""
_Form = Affine | str
"""How a module is packed: its scheme, or one of `_FLOATS`."""


@dataclass(frozen=True)
class MlxQuantization(Quantization):
    """The form of the packed layers; `modules` holds those of single modules that differ."""

    form: _Form
    modules: dict[str, _Form]

    @classmethod
    def take_from(cls, config: dict[str, Any], where: str) -> MlxQuantization | None:
        """Takes MLX's settings out of a config, None where it has none.

        Raises `CheckpointError` for settings of another tool, or out of range.
        """
        settings = config.pop("quantization", None)
        twin = config.pop("quantization_config", None)  # mlx-lm writes both keys, alike
        key = "quantization" if settings is not None else "quantization_config"
        try:
            differ = twin is not None and settings is not None and twin != settings
        except RecursionError:  # nested as deeply as JSON may just be
            differ = True
        if differ:
            raise CheckpointError(
                f"{where}: quantization_config: expected the same as quantization, got {quoted(twin)}"
            )
        settings = twin if settings is None else settings
        if settings is None:
            return None
        if not isinstance(settings, dict) or "quant_method" in settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else settings
            raise CheckpointError(
                f"{where}: {key}: expected MLX's form (bits, group_size), got method {quoted(method)}"
            )
        modules: dict[str, _Form] = {}
        for name, value in settings.items():
            if name in ("bits", "group_size", "mode") or value is False:  # False: MLX left that module as it was
                continue
            if not isinstance(value, dict):
                raise CheckpointError(
                    f"{where}: {key}.{shortened(name)}: expected the settings of a module, got {quoted(value)}"
                )
            modules[name] = cls._read_form(value, f"{where}: {key}.{shortened(name)}")
        return cls(where, cls._read_form(settings, f"{where}: {key}"), modules)

    @staticmethod
    def _read_form(settings: dict[str, Any], where: str) -> _Form:
        bits: Any = settings.get("bits")
        group_size: Any = settings.get("group_size")
        mode = settings.get("mode", "affine")
        if isinstance(mode, str) and mode in _FLOATS:
            for name, got, only in zip(("bits", "group_size"), (bits, group_size), _FLOATS[mode][:2], strict=True):
                if got != only:
                    raise CheckpointError(f"{where}.{name}: expected {only} in the mode {mode}, got {quoted(got)}")
            return mode
        if mode != "affine":
            raise CheckpointError(f"{where}.mode: expected affine, {', '.join(_FLOATS)}, got {quoted(mode)}")
        if type(bits) is not int or bits not in BITS:
            raise CheckpointError(f"{where}.bits: expected one of {', '.join(map(str, BITS))}, got {quoted(bits)}")
        if is_integer("group_size", group_size):
            return Affine(bits, group_size)
        raise CheckpointError(
            f"{where}.group_size: expected {integer_expected('group_size')}, got {quoted(group_size)}"
        )

    def layers(self, stored: Tensors) -> dict[str, Layer]:
        return {f"{stem}.weight": self._layer(stored, stem) for stem in stems(stored, ".scales")}

    def _layer(self, stored: Tensors, stem: str) -> Layer:
        form = self.modules.get(stem, self.form)
        if isinstance(form, str):
            parts = self.parts_of(stored, stem, ("weight", "scales"))
            return _FLOATS[form][2](self, stored, stem, parts)
        for part in ("weight", "biases"):
            if f"{stem}.{part}" not in stored:
                name = shortened(stem)
                raise CheckpointError(
                    f"{self.where}: {name}.scales: expected {name}.weight and {name}.biases beside it, got one or none"
                )
        parts = {"q": f"{stem}.weight", "scales": f"{stem}.scales", "biases": f"{stem}.biases"}
        packed = stored[parts["q"]].shape
        shape = (*packed[:-1], *(words * WORD // form.bits for words in packed[-1:]))

        def make(arrays: Arrays) -> QuantWeight:
            """Raises `CheckpointError` where shapes or dtypes do not fit the settings."""
            return checked_weight(self.where, f"{stem}.weight", QuantWeight(form, arrays, shape))

        return Layer(QuantType(shape, form), parts, make)
