"""A GGUF file, with matrices in one of GGUF's block formats: of another one, whose words all stay as they were, or of a
folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tinyllm.models.checkpoints.gguf import ARRAYS, block_sizes
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.checkpoints.gguf_header import GgufTensor
from tinyllm.models.quantize.plan import Output, float_rows
from tinyllm.spec.scheme import QuantWeight

TYPES = {"Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}
"""Block formats that are written, with what a file says that most of its tensors are."""
_OWN = ("GGUF.", "split.", "general.architecture", "general.file_type", "general.quantization_version")
"""Beginnings of keys that the writer says itself, or that were about the old file."""
_FLOATS = {dtype.name: kind for kind, dtype in ARRAYS.items()}
_KINDS = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Piece:
    """A tensor of the file: its type, and what gives its bytes."""

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Any]


def copy_gguf(checkpoint: GgufCheckpoint, outputs: list[Output], kind: str, path: Path, progress: Progress) -> None:
    """Write a GGUF file that says what another one says.

    Args:
        outputs: of the tensors that the checkpoint names; others of the file stay as they are.
        kind: one of `TYPES`.
        progress: called with (tensors written, tensors in all).
    """
    file, made = checkpoint.file, {each.name: each for each in outputs if each.quantized}
    pieces = {name: _Piece(each.shape, each.kind, partial(_bytes, each)) for name, each in file.tensors.items()}
    pieces |= {name: _Piece(each.shape, kind, partial(_blocks, each, kind)) for name, each in made.items()}
    with closing(gguf.GGUFWriter(path, str(file.metadata["general.architecture"]))) as writer:
        _copy_metadata(file.path, writer)
        _write(writer, pieces, kind, checkpoint.release, progress)


def write_gguf(
    architecture: str,
    metadata: Mapping[str, Any],
    outputs: list[Output],
    floats: Mapping[str, NDArray[np.float32]],
    kind: str,
    path: Path,
    progress: Progress,
) -> None:
    """Write a GGUF file.

    Args:
        metadata: values by key; none of them is what the writer says itself.
        floats: tensors that are no outputs; they are written before those.
        kind, progress: as `copy_gguf` has them.
    """
    pieces = {name: _Piece(array.shape, "F32", partial(np.asarray, array)) for name, array in floats.items()}
    pieces |= {each.name: _piece(each, kind) for each in outputs}
    with closing(gguf.GGUFWriter(path, architecture)) as writer:
        for key, value in metadata.items():
            _add(writer, key, value)
        _write(writer, pieces, kind, lambda: None, progress)


def _write(
    writer: gguf.GGUFWriter, pieces: Mapping[str, _Piece], kind: str, release: Callable[[], None], progress: Progress
) -> None:
    writer.add_file_type(TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, piece in pieces.items():
        raw = gguf.GGMLQuantizationType[piece.kind]
        block, block_bytes = block_sizes(piece.kind)
        nbytes = prod(piece.shape) // block * block_bytes
        writer.add_tensor_info(name, piece.shape, np.dtype(np.float32), nbytes, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, piece in enumerate(pieces.values(), 1):
        writer.write_tensor_data(piece.read())
        release()
        progress(done, len(pieces))


def _copy_metadata(path: Path, writer: gguf.GGUFWriter) -> None:
    for field in gguf.GGUFReader(path).fields.values():
        if field.name.startswith(_OWN):
            continue
        kind = field.types[0]
        items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, items)
        if field.name == "general.alignment":
            writer.data_alignment = int(field.contents())


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A value as the kind that Python has it in; numbers of a list may be negative, and one below 0 is."""
    if isinstance(value, list):
        kind = _KINDS[type(value[0])].replace("UINT32", "INT32")
        writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType[kind])
    else:
        kind = "INT32" if type(value) is int and value < 0 else _KINDS[type(value)]
        writer.add_key_value(key, value, gguf.GGUFValueType[kind])


def _piece(output: Output, kind: str) -> _Piece:
    if output.quantized:
        return _Piece(output.shape, kind, partial(_blocks, output, kind))
    return _Piece(output.shape, _FLOATS[output.dtype], partial(_numbers, output))


def _blocks(output: Output, kind: str) -> Any:
    quantized = [gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind]) for rows in output.rows()]
    return np.concatenate(quantized)


def _numbers(output: Output) -> Any:
    """The floats of a tensor as bytes, in its dtype."""
    dtype = ARRAYS[_FLOATS[output.dtype]]
    blocks = [
        rows for part in output.parts() for rows in (float_rows(part) if isinstance(part, QuantWeight) else [part])
    ]
    return np.concatenate([block.astype(dtype).reshape(-1).view(np.uint8) for block in blocks])


def _bytes(tensor: GgufTensor) -> Any:
    return np.frombuffer(tensor.map, np.uint8, tensor.nbytes, tensor.start)
