"""Opens as much of a model as says what it needs: its config, and the types of its weights. No weight is read, and a
`config.json` alone is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tinyllm.errors import CheckpointError, quoted
from tinyllm.graph.graph import Graph
from tinyllm.models.checkpoints.checkpoint import DTYPES
from tinyllm.models.checkpoints.files import read_json
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.download.sources import config_from_hub, resolve
from tinyllm.models.download.wheel_download import DownloadError
from tinyllm.models.families.families import FAMILIES, decoder_config
from tinyllm.models.families.family import Family
from tinyllm.models.open_model import OpenModel, open_model
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType

Types = Mapping[str, ArrayType | QuantType]


@dataclass(frozen=True)
class PlannedModel:
    """A model without its weights. types: of the weights of its graph, as the files have them. headers: whether the
    files' headers say so; otherwise all have the dtype of the config."""

    path: Path
    config: DecoderConfig
    types: Callable[[Graph], Types]
    headers: bool


def planned_model(name: str, families: Sequence[Family] = FAMILIES, *, quantized: bool = False) -> PlannedModel:
    """The model of a `config.json`, of a folder that has one, with or without tensors, of a `.gguf` file, a known name
    or a hub id; of the last only its config is fetched, unless all of it is here.

    Args:
        quantized: what the weights are quantized by does not matter, as others will be planned for.

    Raises:
        ModelNotFoundError, CheckpointError: as `resolve` and `open_model` do, and for a config alone that says how its
            weights are quantized: which of them are, tensors tell.
    """
    try:
        path = resolve(name, allow_download=False)
    except DownloadError:
        path = config_from_hub(name)
    if path.is_dir() and (path / "config.json").is_file() and not any(path.glob("*.safetensors")):
        path = path / "config.json"
    if path.suffix != ".json":
        opened = open_model(path, families)
        return PlannedModel(path, opened.config, partial(_types_of, opened), True)
    config = read_json(path)
    for key in ("quantization", "quantization_config"):
        settings = config.pop(key, None)
        if settings is not None and not quantized:
            raise CheckpointError(
                f"{path}: {key}: which weights are quantized is told by their tensors, which are not here; "
                f"--quantize BITS plans for all matrices"
            )
    dtype = _stated_dtype(path, config)
    return PlannedModel(path, decoder_config(config, families), partial(_types_stated, dtype), False)


def _types_of(opened: OpenModel, graph: Graph) -> Types:
    weights = opened.weights(graph.tensors())
    weights.check()
    return {name: weights.info(name).type for name in graph.weights}


def _types_stated(dtype: str, graph: Graph) -> Types:
    return {name: ArrayType(weight.shape, dtype) for name, weight in graph.weights.items()}


def _stated_dtype(path: Path, config: Mapping[str, Any]) -> str:
    """The dtype that a config says its weights have; float32 where it says none, as transformers takes it."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if (dtype := part.get(key)) is not None:
                if dtype not in DTYPES:
                    raise CheckpointError(f"{path}: {key}: expected one of {', '.join(DTYPES)}, got {quoted(dtype)}")
                return str(dtype)
    return "float32"
