"""How a model is said in a GGUF file, whatever it is read from.

The readers of families know what files say. Each is offered all that a file might say of the model, that of the
model's own family first, and the first that reads the same model from it has found its architecture; the keys that it
asked for are those that are written. So Mixtral's files become llama's, and those of the text of a model that sees
become a text's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.errors import CheckpointError, TinyllmError, plugin_code
from tinyllm.models.checkpoints.gguf_header import GgufDraft, GgufTensor
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.families import decoder_config, family_of
from tinyllm.models.families.family import Family, GgufForm
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.gguf_keys import first_difference, gguf_keys, rope_tensors
from tinyllm.models.families.tensor_rules import TensorRule, place_of
from tinyllm.models.open_model import OpenModel

_SECTIONS = "rope.dimension_sections"
"""A key that readers know, and llama.cpp asks for, where a model sees."""


@dataclass(frozen=True)
class GgufSaid:
    """An architecture that has a model: all keys under its prefix, the rules for names and rows of its tensors, and the
    tensors that are settings of the rope."""

    architecture: str
    metadata: dict[str, Any]
    rules: tuple[TensorRule, ...]
    ropes: dict[str, NDArray[np.float32]]


def said_in_gguf(opened: OpenModel, families: Sequence[Family], shapes: Mapping[str, tuple[int, ...]]) -> GgufSaid:
    """The first architecture that has the model; its own family's come before those of the others.

    shapes: of the graph's weights. Raises `CheckpointError` where none has it, saying what that of its family lacks.
    """
    family = family_of(opened.checkpoint.config, families)
    lacking: dict[str, str] = {}
    nearest = set(family.architectures)
    for architecture, form in _forms(family, families):
        try:
            said, read = _said(opened.config, architecture, form, families, shapes)
        except TinyllmError as error:  # the reader of another family
            lacking[architecture] = str(error)
            continue
        difference = first_difference(opened.config, read)
        if difference is None:
            return said
        lacking[architecture] = f"its files cannot say that {difference}"
        if read.family == opened.config.family:
            nearest.add(architecture)
    told = next((f"{name}: {why}" for name, why in lacking.items() if name in nearest), f"{family.name} has none")
    raise CheckpointError(
        f"{opened.checkpoint.path}: expected a model that an architecture of GGUF's has as it is; {told}"
    )


def _forms(family: Family, families: Sequence[Family]) -> Iterator[tuple[str, GgufForm]]:
    for each in (family, *families):
        if each.gguf is not None:
            yield from ((architecture, each.gguf) for architecture in each.architectures)


def _said(
    config: DecoderConfig,
    architecture: str,
    form: GgufForm,
    families: Sequence[Family],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[GgufSaid, DecoderConfig]:
    """What the files of an architecture would say, and the decoder that is read from it."""
    with plugin_code(f"architecture {architecture!r}: gguf.keys", passing=(TinyllmError,)):
        keys = gguf_keys(config) | dict(form.keys(config))
    ropes = rope_tensors(config)
    tensors = {name: _tensor(name, array.shape, array.tobytes()) for name, array in ropes.items()}
    for weight, shape in shapes.items():
        name = place_of(weight, form.tensors, ()).tensor()
        tensors[name] = _tensor(name, shape, b"")
    prefixed = {f"{architecture}.{key}": value for key, value in keys.items()}
    whole = GgufDraft(Path("model.gguf"), {"general.architecture": architecture, **prefixed}, tensors)
    fields = GgufFields(whole)
    with plugin_code(f"architecture {architecture!r}: gguf.config", passing=(TinyllmError,)):
        read = decoder_config(form.config(fields), families)
    if _SECTIONS in fields.asked:
        raise CheckpointError(f"its files have to have {_SECTIONS}, which speak of pictures")
    asked = {f"{architecture}.{key}": value for key, value in keys.items() if key in fields.asked}
    return GgufSaid(architecture, asked, form.tensors, ropes), read


def _tensor(name: str, shape: tuple[int, ...], numbers: bytes) -> GgufTensor:
    return GgufTensor(name, shape, "F32", 0, 4 * prod(shape), numbers)
