"""A GGUF file as another one, with matrices in one of GGUF's block formats. All it says besides stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.models.checkpoints.gguf import GgufTensor
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.quantize.plan import Output

TYPES = {"Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}
"""Block formats that are written, with what a file says that most of its tensors are."""
_OWN = ("GGUF.", "split.", "general.architecture", "general.file_type", "general.quantization_version")
"""Beginnings of keys that the writer says itself, or that were about the old file."""


def write_gguf(
    checkpoint: GgufCheckpoint, outputs: list[Output], kind: str, path: Path, progress: Callable[[int, int], None]
) -> None:
    """Write a GGUF file.

    Args:
        outputs: of the tensors that the checkpoint names; others of the file stay as they are.
        kind: one of `TYPES`.
        progress: called with (tensors written, tensors in all).
    """
    file, made = checkpoint.file, {each.name: each for each in outputs if each.quantized}
    with closing(gguf.GGUFWriter(path, str(file.metadata["general.architecture"]))) as writer:
        _copy_metadata(file.path, writer)
        writer.add_file_type(TYPES[kind])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, tensor in file.tensors.items():
            scheme = GGUF_SCHEMES[kind] if name in made else None
            nbytes = prod(tensor.shape) // scheme.block * scheme.block_bytes if scheme else tensor.nbytes
            raw = gguf.GGMLQuantizationType[kind if scheme else tensor.kind]
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), nbytes, raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, (name, tensor) in enumerate(file.tensors.items(), 1):
            writer.write_tensor_data(_blocks(made[name], kind) if name in made else _bytes(tensor))
            checkpoint.release()
            progress(done, len(file.tensors))


def _copy_metadata(path: Path, writer: gguf.GGUFWriter) -> None:
    for field in gguf.GGUFReader(path).fields.values():
        if field.name.startswith(_OWN):
            continue
        kind = field.types[0]
        items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, items)
        if field.name == "general.alignment":
            writer.data_alignment = int(field.contents())


def _blocks(output: Output, kind: str) -> Any:
    quantized = [gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind]) for rows in output.rows()]
    return np.concatenate(quantized)


def _bytes(tensor: GgufTensor) -> Any:
    return np.frombuffer(tensor.map, np.uint8, tensor.nbytes, tensor.start)
