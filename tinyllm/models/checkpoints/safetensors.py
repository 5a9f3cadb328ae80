"""Safetensors, one file or sharded, over memory maps; quantized layers as `QuantWeight`.

Format: eight bytes of header length (little endian), a JSON header, then the numbers. Source: the safetensors
specification.
"""

from __future__ import annotations

import mmap
import os
import shlex
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.checkpoint import Checkpoint, TensorInfo, missing_tensor, read_only
from tinyllm.models.checkpoints.files import (
    MOST_JSON,
    check_apart,
    identity,
    json_object,
    let_go,
    map_file,
    read_json,
    read_json_if_there,
)
from tinyllm.models.checkpoints.folder_quantization import take_quantization
from tinyllm.models.text.chat_template import ChatTemplate, templates_from_folder
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.types import ArrayType

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
"""Dtypes by the format's names."""
# Names of the decoder within a model that sees, before transformers 5 and since.
_TEXT_PARTS = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
_INDEX = "model.safetensors.index.json"
_CONVERT = (
    "import sys; from transformers import AutoModelForCausalLM as Model; "
    "Model.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[1])"
)
"""Writes a folder's safetensors beside its `pytorch_model.bin`."""
_MOST_DIMS, _MOST = 8, 2**48


@dataclass(frozen=True)
class _Stored:
    """A tensor in a mapped file: `start` counts from the file's first byte."""

    map: mmap.mmap
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        raw = np.frombuffer(self.map, np.uint8, self.nbytes, self.start)
        if self.start % self.dtype.itemsize:
            raw = raw.copy()  # an unaligned view is slow or refused later on
        return read_only(raw.view(self.dtype).reshape(self.shape))


def read_safetensors(path: Path) -> dict[str, _Stored]:
    """All tensors of one file by name, in the order of the file.

    Raises `CheckpointError` for a file that is truncated, or whose header disagrees with itself or with the file's
    length.
    """
    data = map_file(path)
    size = len(data)
    length = int.from_bytes(data[: min(8, size)], "little")
    if size < 8 or length > size - 8:
        raise CheckpointError(
            f"{path}: header: expected {length} bytes, got {max(0, size - 8)} (truncated, or no safetensors)"
        )
    if length > MOST_JSON:
        raise CheckpointError(f"{path}: header: expected at most {MOST_JSON} bytes, got {length}")
    header = json_object(data[8 : 8 + length], f"{path}: header")
    header.pop("__metadata__", None)
    stored = {}
    for name, entry in header.items():
        where = f"{path}: {shortened(name)}"
        shape, dtype, begin, end = _entry(entry, where)
        if not 0 <= begin <= end <= size - 8 - length:
            raise CheckpointError(
                f"{where}: expected offsets in 0..{size - 8 - length}, got {quoted([begin, end])} (truncated?)"
            )
        if (need := prod(shape) * dtype.itemsize) != end - begin:
            raise CheckpointError(f"{where}: expected {need} bytes for {dtype.name} {list(shape)}, got {end - begin}")
        stored[name] = _Stored(data, shape, dtype, 8 + length + begin)
    check_apart(path, ((tensor.start, tensor.nbytes, name) for name, tensor in stored.items()))
    return stored


def _entry(entry: Any, where: str) -> tuple[tuple[int, ...], np.dtype[Any], int, int]:
    """Shape, dtype, begin and end of a header's entry, with their kinds checked."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: expected an object, got {quoted(entry)}")
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise CheckpointError(f"{where}: dtype: expected one of {', '.join(DTYPES)}, got {quoted(kind)}")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMS or not _counts(shape):
        raise CheckpointError(
            f"{where}: shape: expected a list of counts, at most {_MOST_DIMS} and none above {_MOST}, got "
            f"{quoted(shape)}"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not _counts(offsets):
        raise CheckpointError(f"{where}: data_offsets: expected two counts, got {quoted(offsets)}")
    return tuple(shape), DTYPES[kind], offsets[0], offsets[1]


def _whole_names(names: list[str], where: Path) -> dict[str, str]:
    """Each name as a whole model has it, with the file's own: a decoder saved by itself, as transformers' `LlamaModel`
    is, lacks the prefix `model.`, and one that is a part of a model that sees has one more."""
    prefix = "model." if "embed_tokens.weight" in names else ""
    whole: dict[str, str] = {}
    for name in names:
        ours = name if name.startswith("lm_head.") else prefix + name
        theirs = next((theirs for theirs in _TEXT_PARTS if ours.startswith(theirs)), "")
        ours = _TEXT_PARTS[theirs] + ours.removeprefix(theirs) if theirs else ours
        if ours in whole:
            raise CheckpointError(f"{where}: {quoted(whole[ours])} and {quoted(name)} are the same tensor of a decoder")
        whole[ours] = name
    return whole


def _counts(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST for value in values)


class SafetensorsCheckpoint(Checkpoint):
    """A folder in Hugging Face form, or one `.safetensors` file with the folder's `config.json` beside it.

    Raises `CheckpointError` for missing or corrupt files, an index that disagrees with its shards, and unknown
    quantization.
    """

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.identity = identity(sorted(path.glob("*.safetensors")) if path.is_dir() else [path])
        config = read_json(self.folder / "config.json")
        quantization = take_quantization(config, self.folder)
        self.config = config
        self._generation_config = read_json_if_there(self.folder / "generation_config.json")
        self._stored = self._open_all()
        self._layers = quantization.layers(self._stored) if quantization else {}
        unread = {part for layer in self._layers.values() for part in layer.parts.values()}
        if quantization:
            unread |= {name for name in self._stored if name.endswith(quantization.unused)}
        plain = [name for name in self._stored if name not in unread]
        self._in_file = _whole_names([*plain, *self._layers], path)

    def _open_all(self) -> dict[str, _Stored]:
        index = self.folder / _INDEX
        if not self.path.is_dir():
            return read_safetensors(self.path)
        if not index.exists():
            single = self.folder / "model.safetensors"
            if not single.exists():
                raise CheckpointError(f"{self.folder}: expected model.safetensors or {_INDEX}, got {self._instead()}")
            return read_safetensors(single)
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
            raise CheckpointError(
                f"{index}: weight_map: expected an object of tensor names to shards, got {quoted(weight_map)}"
            )
        stored: dict[str, _Stored] = {}
        for shard in sorted(set(weight_map.values())):
            if Path(shard).name != shard or not os.path.isfile(self.folder / shard):  # False for a name that is none
                raise CheckpointError(f"{index}: shard {quoted(shard)}: expected a file of this folder, got none")
            for name, tensor in read_safetensors(self.folder / shard).items():
                if name in stored:
                    raise CheckpointError(f"{self.folder}: tensor {quoted(name)} is in two shards")
                if weight_map.get(name) != shard:
                    raise CheckpointError(
                        f"{index}: tensor {quoted(name)}: expected it in {shortened(weight_map.get(name))}, got it in "
                        f"{shortened(shard)}"
                    )
                stored[name] = tensor
        if lost := [name for name in weight_map if name not in stored]:
            raise CheckpointError(
                f"{index}: tensor {quoted(lost[0])}: expected it in {shortened(weight_map[lost[0]])}, got a shard "
                f"without it"
            )
        return stored

    def _instead(self) -> str:
        """What a folder without safetensors has, for a message."""
        if not any(self.folder.glob("pytorch_model*.bin")):
            return "neither"
        command = f"python -c {shlex.quote(_CONVERT)} {shlex.quote(str(self.folder))}"
        return (
            f"pytorch_model.bin, whose format runs code when it is read; convert it, if you trust it, with: {command}"
        )

    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self._in_file)

    def name_in_file(self, name: str) -> str:
        """A tensor's name as the file has it. Raises `CheckpointError` for a name that is not there."""
        if name not in self._in_file:
            raise missing_tensor(self, name)
        return self._in_file[name]

    def info(self, name: str) -> TensorInfo:
        name = self.name_in_file(name)
        if name in self._layers:
            layer = self._layers[name]
            nbytes = sum(self._stored[part].nbytes for part in layer.parts.values())
            return TensorInfo(layer.type, nbytes, layer.order())
        stored = self._stored[name]
        return TensorInfo(ArrayType(stored.shape, stored.dtype.name), stored.nbytes)

    def read(self, name: str) -> NDArray[Any] | QuantWeight:
        name = self.name_in_file(name)
        if name in self._layers:
            layer = self._layers[name]
            return layer.make({part: self._stored[tensor].read() for part, tensor in layer.parts.items()})
        return self._stored[name].read()

    def release(self) -> None:
        for mapped in {id(stored.map): stored.map for stored in self._stored.values()}.values():
            let_go(mapped)

    def generation_config(self) -> tuple[dict[str, Any], str]:
        return self._generation_config, "generation_config.json"

    def tokenizer(self) -> Tokenizer:
        return tokenizer_from_folder(self.folder, self.config, self._generation_config)

    def chat_template(self) -> ChatTemplate | None:
        return templates_from_folder(self.folder)
