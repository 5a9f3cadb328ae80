"""A GGUF file as a `Checkpoint`: Hugging Face's names, config and row order; quantized blocks as `QuantWeight`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.checkpoint import Checkpoint, TensorInfo, checked_weight, missing_tensor, read_only
from tinyllm.models.checkpoints.files import identity, let_go
from tinyllm.models.checkpoints.gguf import ARRAYS, GgufTensor
from tinyllm.models.checkpoints.gguf_config import ROPE_FACTORS, hf_name, rope_rows, to_hf_config
from tinyllm.models.checkpoints.gguf_sampling import to_generation_config
from tinyllm.models.checkpoints.gguf_split import open_gguf
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.gguf_vocabulary import templates_from_gguf, tokenizer_from_gguf
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType


class GgufCheckpoint(Checkpoint):
    """Tensors are views on the file, quantized ones in a `QuantWeight`. Only where Hugging Face has the rows in another
    order are they copied.

    Raises `CheckpointError` for a file that is corrupt, of another family, or with keys that are not understood.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, open_gguf(path)
        self.identity = identity(part.path for part in self.file.parts)
        self.config = to_hf_config(self.file)
        tensors = [t for t in self.file.tensors.values() if t.name != ROPE_FACTORS]  # those are in the config
        self._tensors = {hf_name(tensor.name) or tensor.name: tensor for tensor in tensors}

    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def _tensor(self, name: str) -> GgufTensor:
        if name not in self._tensors:
            raise missing_tensor(self, name)
        return self._tensors[name]

    def info(self, name: str) -> TensorInfo:
        tensor = self._tensor(name)
        if tensor.kind in ARRAYS:
            return TensorInfo(ArrayType(tensor.shape, ARRAYS[tensor.kind].name), tensor.nbytes)
        return TensorInfo(QuantType(tensor.shape, GGUF_SCHEMES[tensor.kind]), tensor.nbytes)

    def read(self, name: str) -> NDArray[Any] | QuantWeight:
        tensor = self._tensor(name)
        if tensor.kind not in ARRAYS and len(tensor.shape) < 2:
            raise CheckpointError(
                f"{self.path}: {tensor.name}: expected a matrix of {tensor.kind}, got shape {list(tensor.shape)}"
            )
        rows = tensor.shape[0]
        raw = np.frombuffer(tensor.map, np.uint8, tensor.nbytes, tensor.start).reshape(rows, -1)
        order = rope_rows(tensor.name, rows, self.config)
        if order is not None:
            raw = raw[order]
        if tensor.kind in ARRAYS:
            return read_only(raw.reshape(-1).view(ARRAYS[tensor.kind]).reshape(tensor.shape))
        blocks = read_only(raw.reshape(*tensor.shape[:-1], -1))
        weight = QuantWeight(GGUF_SCHEMES[tensor.kind], {"blocks": blocks}, tensor.shape)
        return checked_weight(str(self.path), name, weight)

    def release(self) -> None:
        for part in self.file.parts:
            let_go(part.map)

    def generation_config(self) -> tuple[dict[str, Any], str]:
        return to_generation_config(self.file), self.path.name

    def tokenizer(self) -> Tokenizer:
        made = tokenizer_from_gguf(self.file)
        self.release()
        return made

    def chat_template(self) -> ChatTemplate | None:
        made = templates_from_gguf(self.file)
        self.release()
        return made
