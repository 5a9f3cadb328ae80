"""A GGUF file as a `Checkpoint`: Hugging Face's names, config and row order; quantized blocks as `QuantWeight`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.checkpoint import Checkpoint, TensorInfo, checked_weight, missing_tensor, read_only
from tinyllm.models.checkpoints.files import identity, let_go
from tinyllm.models.checkpoints.gguf import GgufFile, GgufTensor
from tinyllm.models.checkpoints.gguf_blocks import BLOCK, SCHEMES, from_gguf_blocks
from tinyllm.models.checkpoints.gguf_config import ROPE_FACTORS, hf_name, rope_rows, to_hf_config
from tinyllm.models.text.chat_template import ChatTemplate, templates_from_gguf
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.types import ArrayType, QuantType

_ARRAYS: dict[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}


class GgufCheckpoint(Checkpoint):
    """F32, F16 and BF16 tensors are views on the file, Q4_0 to Q8_0 become `QuantWeight`, other kinds float32.

    Raises `CheckpointError` for a file that is corrupt, of another family, or with keys that are not understood.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.identity = path, identity([path])
        self.file = GgufFile(path)
        self.config = to_hf_config(self.file)
        stops = [self.file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
        self.generation_config = {"eos_token_id": [stop for stop in dict.fromkeys(stops) if stop is not None]}
        self._tensors: dict[str, GgufTensor] = {}
        for tensor in self.file.tensors.values():
            if tensor.name == ROPE_FACTORS:  # already in the config
                continue
            self._tensors[hf_name(tensor.name) or tensor.name] = tensor

    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def _tensor(self, name: str) -> GgufTensor:
        if name not in self._tensors:
            raise missing_tensor(self, name)
        return self._tensors[name]

    def info(self, name: str) -> TensorInfo:
        tensor = self._tensor(name)
        if tensor.kind in _ARRAYS:
            return TensorInfo(ArrayType(tensor.shape, _ARRAYS[tensor.kind].name), tensor.nbytes)
        if tensor.kind in SCHEMES:
            scheme, bits = SCHEMES[tensor.kind]
            return TensorInfo(
                QuantType(tensor.shape, Affine(bits, BLOCK) if scheme == "affine" else Int8(BLOCK)), tensor.nbytes
            )
        return TensorInfo(ArrayType(tensor.shape, "float32"), tensor.nbytes)

    def read(self, name: str) -> NDArray[Any] | QuantWeight:
        tensor = self._tensor(name)
        if tensor.kind not in _ARRAYS and len(tensor.shape) < 2:
            raise CheckpointError(
                f"{self.path}: {tensor.name}: expected a matrix of {tensor.kind}, got shape {list(tensor.shape)}"
            )
        rows = tensor.shape[0]
        raw = np.frombuffer(self.file.map, np.uint8, tensor.nbytes, tensor.start).reshape(rows, -1)
        order = rope_rows(tensor.name, rows, self.config)
        if order is not None:
            raw = raw[order]
        if tensor.kind in _ARRAYS:
            return read_only(raw.reshape(-1).view(_ARRAYS[tensor.kind]).reshape(tensor.shape))
        if tensor.kind in SCHEMES:
            return checked_weight(str(self.path), name, from_gguf_blocks(raw, tensor.kind, tensor.shape))
        return read_only(_by_gguf_package(raw, tensor, self.path))

    def release(self) -> None:
        let_go(self.file.map)

    def tokenizer(self) -> Tokenizer:
        return tokenizer_from_gguf(self.file)

    def chat_template(self) -> ChatTemplate | None:
        return templates_from_gguf(self.file)


def _by_gguf_package(raw: NDArray[np.uint8], tensor: GgufTensor, path: Path) -> NDArray[np.float32]:
    """K-quants and the like to float32 by ggml's own Python package; no op here computes on them."""
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as error:
        raise CheckpointError(
            f"{path}: {tensor.name}: {tensor.kind} needs the gguf package to be read: python -m pip install gguf"
        ) from error
    try:
        values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[tensor.kind])
    except NotImplementedError as error:
        raise CheckpointError(f"{path}: {tensor.name}: the gguf package cannot read {tensor.kind}") from error
    return np.asarray(values, np.float32).reshape(tensor.shape)
