"""Finds how a folder's layers are quantized, by the settings in its config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.bitsandbytes import Bitsandbytes
from tinyllm.models.checkpoints.compressed_tensors import CompressedTensors
from tinyllm.models.checkpoints.files import read_json_if_there
from tinyllm.models.checkpoints.fp8 import BlockFp8, GptOssMxfp4
from tinyllm.models.checkpoints.gptq import Awq, Gptq
from tinyllm.models.checkpoints.mlx_quantization import MlxQuantization
from tinyllm.models.checkpoints.quantization import Quantization

METHODS: dict[str, Callable[[dict[str, Any], str], Quantization]] = {
    "gptq": Gptq.read,
    "awq": Awq.read,
    "compressed-tensors": CompressedTensors.read,
    "fp8": BlockFp8.read,
    "mxfp4": GptOssMxfp4.read,
    "bitsandbytes": Bitsandbytes.read,
}
"""Readers of a config's `quantization_config`, by its `quant_method`; MLX's has none."""


def take_quantization(config: dict[str, Any], folder: Path) -> Quantization | None:
    """Takes the settings out of a config, or, where it has none, from GPTQ's `quantize_config.json`.

    Raises `CheckpointError` for methods and settings that are not understood.
    """
    where = str(folder / "config.json")
    settings = config.get("quantization_config")
    if isinstance(settings, dict) and "quant_method" in settings and "quantization" not in config:
        del config["quantization_config"]
        method = settings["quant_method"]
        if not isinstance(method, str) or method not in METHODS:
            raise CheckpointError(
                f"{where}: quantization_config.quant_method: expected one of {', '.join(METHODS)}, got {quoted(method)}"
            )
        return METHODS[method](settings, f"{where}: quantization_config")
    made = MlxQuantization.take_from(config, where)
    if made is None and (settings := read_json_if_there(folder / "quantize_config.json")):
        return Gptq.read(settings, str(folder / "quantize_config.json"))
    return made
