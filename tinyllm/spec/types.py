"""What a call looks like before any data is touched: types of its arrays, and the call itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyllm.spec.scheme import QuantType

Dim = int | str
"""A size: a number, or in a graph the name of a size that changes from step to step (`"T"`)."""

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class ArrayType:
    """Shape and dtype name of an array."""

    shape: tuple[Dim, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Call:
    """One call as seen before any data is touched: what `supports`, `check`, `flops` and `bytes` are given."""

    op: str
    inputs: Mapping[str, ArrayType | QuantType | None]
    attributes: Mapping[str, Any]
    dims: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    weights_packed: bool = False
    """The weights are a program's constants: packing them is paid once, and not at every call."""
    shared: bool = False
    """Other ops of the program read the weight as well, as it is: a packed form would be a second copy of it."""

    def shape(self, name: str) -> tuple[Any, ...]:
        """Shape of an input that is present."""
        kind = self.inputs[name]
        if kind is None:
            raise KeyError(name)
        return kind.shape

    def dtype(self, name: str) -> str:
        """Dtype name of an input, `none` where it was left out; of a `QuantWeight` that of its numbers."""
        kind = self.inputs[name]
        return "none" if kind is None else kind.dtype
