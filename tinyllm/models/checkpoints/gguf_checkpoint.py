"""A GGUF file as a `Checkpoint`: a config by its family, and tensors, quantized ones as `QuantWeight`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.errors import CheckpointError, PluginError, TinyllmError, plugin_code, quoted
from tinyllm.models.checkpoints.checkpoint import Checkpoint, TensorInfo, checked_weight, missing_tensor, read_only
from tinyllm.models.checkpoints.files import identity, let_go
from tinyllm.models.checkpoints.gguf import ARRAYS, GgufFile
from tinyllm.models.checkpoints.gguf_header import GgufTensor
from tinyllm.models.checkpoints.gguf_sampling import to_generation_config
from tinyllm.models.checkpoints.gguf_split import open_gguf
from tinyllm.models.families.family import Family
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.gguf_rope import ROPE_TENSORS
from tinyllm.models.families.nearest import nearest_of_gguf
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.gguf_vocabulary import templates_from_gguf, tokenizer_from_gguf
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType


class GgufCheckpoint(Checkpoint):
    """Tensors are views on the file, quantized ones in a `QuantWeight`.

    Raises `CheckpointError` for a file that is corrupt, of an architecture that no family has, or with keys that are
    not understood.
    """

    format = "gguf"

    def __init__(self, path: Path, families: Sequence[Family]) -> None:
        self.path, self.file = path, open_gguf(path)
        self.identity = identity(part.path for part in self.file.parts)
        self.config = _config(self.file, families)
        # rope's divisors are in the config
        self._tensors = {name: tensor for name, tensor in self.file.tensors.items() if name not in ROPE_TENSORS}

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
        raw = np.frombuffer(tensor.map, np.uint8, tensor.nbytes, tensor.start)
        if tensor.kind in ARRAYS:
            return read_only(raw.view(ARRAYS[tensor.kind]).reshape(tensor.shape))
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


def _config(file: GgufFile, families: Sequence[Family]) -> dict[str, Any]:
    """The `config.json` that the metadata and tensors amount to, by the family of the architecture."""
    architecture = file.metadata.get("general.architecture")
    forms = {name: (family, family.gguf) for family in families if family.gguf for name in family.gguf.architectures}
    if architecture not in forms:
        raise CheckpointError(
            f"{file.path}: general.architecture: expected one of {', '.join(sorted(forms))}, got "
            f"{quoted(architecture)}{nearest_of_gguf(file, families)}"
        )
    family, form = forms[architecture]
    fields = GgufFields(file)
    where = f"family {family.name!r}: gguf.config"
    with plugin_code(where, passing=(TinyllmError,)):
        config = form.config(fields)
    if not isinstance(config, dict):
        raise PluginError(f"{where}: expected a dict, got {config!r}")
    fields.finish()
    return config
