"""Calls of a definition: sizes of the axes that vary, and the integers that steer an op; floats are drawn anew."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.definitions.definition import Definition
from tinyllm.errors import InvalidInputError
from tinyllm.spec.types import Call

KINDS = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
"""Integers of the schema, as safetensors names them and as numpy does."""


@dataclass(frozen=True)
class Workload:
    """One call. axes: as `Definition.sizes`. scalars: values of the attributes that are inputs. values: those of inputs
    of integers, which random numbers would make another call of, or none."""

    axes: Mapping[str, int]
    scalars: Mapping[str, float]
    values: Mapping[str, np.ndarray]

    @cached_property
    def uuid(self) -> str:
        """The same for the same call."""
        told = json.dumps([dict(self.axes), dict(self.scalars), {n: v.tolist() for n, v in self.values.items()}])
        return str(uuid.uuid5(uuid.NAMESPACE_OID, told))

    def to_json(self, definition: Definition, blob: str) -> dict[str, Any]:
        """A trace without solution, as the schema writes a workload; `blob`: the file of its integers."""
        inputs: dict[str, Any] = {name: {"type": "random"} for name in definition.inputs}
        inputs |= {name: {"type": "scalar", "value": value} for name, value in self.scalars.items()}
        inputs |= {name: {"type": "safetensors", "path": blob, "tensor_key": name} for name in self.values}
        workload = {"uuid": self.uuid, "axes": dict(self.axes), "inputs": inputs}
        return {"definition": definition.name, "workload": workload, "solution": None, "evaluation": None}


def workload_of(definition: Definition, call: Call, values: Mapping[str, np.ndarray]) -> Workload:
    """A call that the definition takes, as a workload."""
    shapes = {name: tuple(map(int, kind.shape)) for name, kind in call.inputs.items() if kind is not None}
    return Workload(definition.sizes(shapes), {n: float(call.attributes[n]) for n in definition.scalars}, dict(values))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A safetensors file of integers: the length of the header, the header, the numbers one after the other."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": f"I{8 * array.itemsize}",
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The integers of such a file.

    Raises:
        InvalidInputError: it cannot be read, or is none of integers.
    """
    try:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        found = {}
        for name, about in header.items():
            if name != "__metadata__":
                first, last = about["data_offsets"]
                part = data[8 + size + first : 8 + size + last]
                found[name] = np.frombuffer(part, KINDS[about["dtype"]]).reshape(about["shape"])
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InvalidInputError(f"{path}: expected safetensors of integers, got {error}") from error
    return found
