"""GGUF files that are cut in parts, `NAME-00001-of-0000N.gguf`, opened as one. Source: llama.cpp's gguf-split."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.gguf import GgufFile

_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")
_MOST_PARTS = 4096


def open_gguf(path: Path) -> GgufFile:
    """The file, with the tensors of all its parts where it is one of several: the first has the metadata.

    Raises `CheckpointError` as `GgufFile` does, and for a part that is missing, of another file or not where its name
    says.
    """
    file = GgufFile(path)
    count = _number(file, "split.count", 1)
    if count in (0, 1):
        return file
    named = _NAME.fullmatch(path.name)
    if named is None or int(named[3]) != count or count > _MOST_PARTS:
        raise CheckpointError(
            f"{path}: split.count: expected a name that ends in -00001-of-{count:05}.gguf, at most {_MOST_PARTS} "
            f"parts, got {quoted(path.name)}"
        )
    paths = [path.with_name(f"{named[1]}-{part:05}-of-{named[3]}.gguf") for part in range(1, count + 1)]
    for needed in paths:
        if not os.path.exists(needed):
            raise CheckpointError(f"{needed}: expected this part beside {path.name}, got no such file")
    first, *others = (file if each == path else GgufFile(each) for each in paths)
    for number, part in enumerate((first, *others)):
        for key, expected in (("split.no", number), ("split.count", count)):
            if (got := _number(part, key, None)) != expected:
                raise CheckpointError(f"{part.path}: {key}: expected {expected}, as its name says, got {quoted(got)}")
    for part in others:
        for name, tensor in part.tensors.items():
            if name in first.tensors:
                raise CheckpointError(f"{part.path}: tensor {quoted(name)} is in two parts")
            first.tensors[name] = tensor
        first.parts.append(part)
    total = _number(first, "split.tensors.count", len(first.tensors))
    if total != len(first.tensors):
        raise CheckpointError(
            f"{first.path}: split.tensors.count: expected the {len(first.tensors)} tensors of all parts, got {total}"
        )
    return first


def _number(file: GgufFile, key: str, default: int | None) -> Any:
    value = file.metadata.get(key, default)
    if value is not None and type(value) is not int:
        raise CheckpointError(f"{file.path}: {key}: expected a number, got {quoted(value)}")
    return value
