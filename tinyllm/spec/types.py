"""What a call looks like before any data is touched: types of arrays and weights, and the call itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
class QuantType:
    """What a `QuantWeight` looks like from outside."""

    shape: tuple[Dim, ...]
    scheme: str
    bits: int
    group_size: int

    def __str__(self) -> str:
        return f"{self.scheme}{self.bits}/{self.group_size}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Call:
    """One call as seen before any data is touched: what `supports`, `check`, `flops` and `bytes` are given."""

    op: str
    inputs: Mapping[str, ArrayType | QuantType | None]
    attributes: Mapping[str, Any]
    dims: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    bound: bool = False
    """The weights are a bound program's: packing them is paid once, and not at every call."""

    def shape(self, name: str) -> tuple[Any, ...]:
        """Shape of an input that is present."""
        given = self.inputs[name]
        if given is None:
            raise KeyError(name)
        return given.shape

    def dtype(self, name: str) -> str:
        """Dtype name of an input; of a `QuantWeight`, its scheme."""
        given = self.inputs[name]
        return given.dtype if isinstance(given, ArrayType) else given.scheme if given else "none"
