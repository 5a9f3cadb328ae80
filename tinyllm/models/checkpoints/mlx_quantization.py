"""MLX's quantized checkpoints: `quantization` in the config, and `.scales` and `.biases` beside each packed
`.weight`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tinyllm.catalogue.schemes.affine import BITS, Affine
from tinyllm.catalogue.schemes.bits import WORD
from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.checkpoint import checked_weight
from tinyllm.models.families.ranges import integer_expected, is_integer
from tinyllm.spec.scheme import QuantType, QuantWeight


@dataclass(frozen=True)
class MlxQuantization:
    """The scheme of the packed layers; `layers` holds those of single modules that differ."""

    where: str
    scheme: Affine
    layers: dict[str, Affine]

    @classmethod
    def take_from(cls, config: dict[str, Any], where: str) -> MlxQuantization | None:
        """Takes MLX's settings out of a config, None where it has none.

        Raises `CheckpointError` for a `quantization_config` of another method (gptq, awq, bitsandbytes, fp8...) or
        settings out of range.
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
        if not isinstance(settings, dict) or "quant_method" in settings or settings.get("mode", "affine") != "affine":
            method = settings.get("quant_method", settings.get("mode")) if isinstance(settings, dict) else settings
            raise CheckpointError(
                f"{where}: {key}: expected MLX's affine form (bits, group_size), got method {quoted(method)}"
            )
        layers: dict[str, Affine] = {}
        for name, value in settings.items():
            if name in ("bits", "group_size", "mode") or value is False:  # False: MLX left that module as it was
                continue
            if not isinstance(value, dict):
                raise CheckpointError(
                    f"{where}: {key}.{shortened(name)}: expected the settings of a module, got {quoted(value)}"
                )
            layers[name] = cls._read_scheme(value, f"{where}: {key}.{shortened(name)}")
        return cls(where, cls._read_scheme(settings, f"{where}: {key}"), layers)

    @staticmethod
    def _read_scheme(settings: dict[str, Any], where: str) -> Affine:
        bits: Any = settings.get("bits")
        group_size: Any = settings.get("group_size")
        if type(bits) is not int or bits not in BITS:
            raise CheckpointError(f"{where}.bits: expected one of {', '.join(map(str, BITS))}, got {quoted(bits)}")
        if is_integer("group_size", group_size):
            return Affine(bits, group_size)
        raise CheckpointError(
            f"{where}.group_size: expected {integer_expected('group_size')}, got {quoted(group_size)}"
        )

    def packed_names(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Packed weights with the names of their scales and biases. Raises `CheckpointError` where one of the two is
        missing."""
        there = set(names)
        packed = {}
        for scales in (name for name in there if name.endswith(".scales")):
            stem = scales.removesuffix(".scales")
            pair = (scales, f"{stem}.biases")
            if f"{stem}.weight" not in there or pair[1] not in there:
                name = shortened(stem)
                raise CheckpointError(
                    f"{self.where}: {name}.scales: expected {name}.weight and {name}.biases beside it, got one or none"
                )
            packed[f"{stem}.weight"] = pair
        return packed

    def type_of(self, name: str, packed: tuple[int, ...]) -> QuantType:
        """The type of a packed layer, from the shape of its words."""
        scheme = self._scheme_of(name)
        return QuantType(_unpacked(packed, scheme.bits), scheme)

    def _scheme_of(self, name: str) -> Affine:
        return self.layers.get(name.removesuffix(".weight"), self.scheme)

    def weight(self, name: str, q: NDArray[Any], scales: NDArray[Any], biases: NDArray[Any]) -> QuantWeight:
        """The `QuantWeight` of a packed layer: `q` uint32 `[..., N, K * bits / 32]`, `scales` and `biases`
        `[..., N, K / group_size]`.

        Raises `CheckpointError` where shapes or dtypes do not fit the settings.
        """
        scheme, arrays = self._scheme_of(name), {"q": q, "scales": scales, "biases": biases}
        return checked_weight(self.where, name, QuantWeight(scheme, arrays, _unpacked(q.shape, scheme.bits)))


def _unpacked(packed: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """The shape of a weight from that of its words."""
    return (*packed[:-1], *(words * WORD // bits for words in packed[-1:]))
