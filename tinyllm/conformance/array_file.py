"""Arrays and what is said about them in one file, in the form of safetensors, whose metadata holds the latter as JSON.

Format: the safetensors specification. The reader is the one of checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.errors import CheckpointError, InvalidInputError, TinyllmError
from tinyllm.models.checkpoints.safetensors import DTYPES, read_safetensors

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_arrays(path: Path, kind: str, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name.

    Args:
        kind: of the file, which `read_arrays` asks for. about: what JSON can say.

    Raises:
        TinyllmError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {kind: json.dumps(about)}}
    begin = 0
    for name, array in arrays.items():
        end = begin + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin where they are aligned
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).tobytes())
    except OSError as error:
        raise TinyllmError(f"{path}: cannot be written: {error.strerror}") from error


def read_arrays(
    where: str, path: Path, kind: str, maker: str, fields: Iterable[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is said about the arrays of a file, and the arrays by name.

    Args:
        where: the option that names the file, for messages. maker: the command that writes such files.
        fields: what has to be said of the arrays.

    Raises:
        InvalidInputError: the file is not there, or is no file of this kind.
    """
    try:
        stored = read_safetensors(path)
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        about = json.loads(header["__metadata__"][kind])
        about = {name: about[name] for name in fields}
    except (OSError, CheckpointError, ValueError, LookupError, TypeError) as error:
        told = "a file of another kind" if path.is_file() else "none"
        raise InvalidInputError(f"{where}: {path}: expected a file that {maker} wrote, got {told}") from error
    return about, {name: tensor.read() for name, tensor in stored.items()}
