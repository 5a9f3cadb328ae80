"""A model as a folder in MLX's form: integers with their scales and biases in safetensors, and `quantization` in the
config.

Source: mlx-lm's `save_model` and `load_model`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.checkpoints.safetensors import SafetensorsCheckpoint
from tinyllm.models.open_model import OpenModel
from tinyllm.models.quantize.plan import Output, float_rows
from tinyllm.models.quantize.safetensors_writer import SafetensorsWriter
from tinyllm.models.text.gguf_vocabulary import special_tokens
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import QuantWeight

_BESIDE = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".md")
"""Endings of the files of a folder that are copied, beside a licence: those of tokenizers and templates among them."""
_NOT_COPIED = ("config.json", "model.safetensors.index.json", "quantize_config.json", "hf_quant_config.json")
_PARTS = {"weight": "q", "scales": "scales", "biases": "biases"}
"""The arrays of a weight by MLX's names."""


def write_folder(
    opened: OpenModel, outputs: list[Output], scheme: Affine, folder: Path, progress: Callable[[int, int], None]
) -> None:
    """Write a model into a new folder.

    progress: called with (tensors written, tensors in all).

    Raises:
        CheckpointError: scales that their dtype does not hold.
    """
    folder.mkdir()
    quantization = {"group_size": scheme.group_size, "bits": scheme.bits, "mode": "affine"}
    config = opened.checkpoint.config | {"quantization": quantization}
    if opened.tied_by_file:  # one of the two is written
        config["tie_word_embeddings"] = True
    _write_json(folder / "config.json", config)
    _copy_texts(opened, folder)
    layout = {name: part for each in outputs for name, part in _layout(each, scheme).items()}
    with (folder / "model.safetensors").open("wb") as file:
        writer = SafetensorsWriter(file, layout)
        for done, each in enumerate(outputs, 1):
            _write(writer, each, scheme)
            progress(done, len(outputs))


def _layout(output: Output, scheme: Affine) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    if not output.quantized:
        return {output.name: (numpy_dtype(output.dtype), output.shape)}
    parts = scheme.parts(output.shape)
    dtypes = {"q": np.dtype(np.uint32)}
    return {
        _part(output, theirs): (dtypes.get(ours, numpy_dtype(output.dtype)), parts[ours].shape)
        for theirs, ours in _PARTS.items()
    }


def _part(output: Output, part: str) -> str:
    return f"{output.name.removesuffix('.weight')}.{part}"


def _write(writer: SafetensorsWriter, output: Output, scheme: Affine) -> None:
    dtype = numpy_dtype(output.dtype)
    if output.quantized:
        for rows in output.rows():
            arrays = _quantized(output.name, rows, scheme, dtype)
            for theirs, ours in _PARTS.items():
                writer.write(_part(output, theirs), arrays[ours])
        return
    for part in output.parts():
        blocks = float_rows(part) if isinstance(part, QuantWeight) else [part]
        for block in blocks:
            writer.write(output.name, block.astype(dtype, copy=False))


def _quantized(name: str, rows: NDArray[np.float32], scheme: Affine, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The arrays of rows, whose integers are those for scales and biases as `dtype` rounds them."""
    with np.errstate(over="ignore"):
        ends = [end.astype(dtype) for end in scheme.ends(np, rows)]
    if not all(np.isfinite(end).all() for end in ends):
        raise CheckpointError(f"{name}: expected numbers whose scales {dtype.name} holds, got larger ones or NaN")
    return dict(scheme.nearest(np, rows, *ends).arrays)


def _copy_texts(opened: OpenModel, folder: Path) -> None:
    """Tokenizer, chat templates, and whatever else speaks of the model."""
    checkpoint = opened.checkpoint
    if isinstance(checkpoint, GgufCheckpoint):
        _write_texts(checkpoint, opened.config.max_position, folder)
    elif isinstance(checkpoint, SafetensorsCheckpoint):
        for path in checkpoint.folder.iterdir():
            spoken = path.suffix in _BESIDE or path.name.startswith("LICENSE")
            if path.is_file() and spoken and path.name not in _NOT_COPIED:
                shutil.copyfile(path, folder / path.name)
        templates = checkpoint.folder / "additional_chat_templates"
        if templates.is_dir():
            shutil.copytree(templates, folder / templates.name)


def _write_texts(checkpoint: GgufCheckpoint, context: int, folder: Path) -> None:
    """What a GGUF file has in its metadata, in the files that folders have for it."""
    if "tokenizer.ggml.model" not in checkpoint.file.metadata:  # a file may be without
        return
    tokenizer = checkpoint.tokenizer()
    tokenizer.save(folder / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    _write_json(folder / "tokenizer_config.json", settings | special_tokens(checkpoint.file))
    if tokenizer.eos_token_ids:
        generation = checkpoint.generation_config()[0] | {"eos_token_id": list(tokenizer.eos_token_ids)}
        _write_json(folder / "generation_config.json", generation)
    for key, template in checkpoint.file.metadata.items():
        prefix, _, name = key.partition("tokenizer.chat_template")
        if prefix or key == prefix:
            continue
        path = folder / (f"additional_chat_templates/{name[1:]}.jinja" if name else "chat_template.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
