"""The outputs of an op: their names, and the small language of their shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tinyllm.spec.types import ArrayType, Call


@dataclass(frozen=True)
class Output:
    """An output: its shape, and its dtype (`"T"` or `"S"`, that of inputs of this kind, or a dtype name).

    shape: a pattern such as `"*B L D"` over the sizes that the inputs bound; `"?name"`: the shape that `OpSpec.check`
    gives under that name, no output where it gives None; `"...name"`: as many outputs as it gives shapes.
    """

    name: str
    shape: str
    dtype: str = "T"
    may_view: bool = False
    """Whether it may share memory with an input, so that it changes when that is written to."""

    @cached_property
    def is_many(self) -> bool:
        """Whether it stands for as many outputs as a call asks for."""
        return self.shape.startswith("...")

    @cached_property
    def _checked(self) -> str:
        """The name under which `OpSpec.check` gives the shape; empty for a pattern."""
        return self.shape.lstrip(".?") if self.shape.startswith(("?", "...")) else ""

    @cached_property
    def _pattern(self) -> tuple[str | int, ...]:
        return tuple(int(name) if name.isdigit() else name for name in self.shape.split())

    def types(self, call: Call) -> list[ArrayType]:
        """The types that it has in a call; a `QuantWeight` counts as an array of its unpacked shape and dtype
        `quant`."""
        dtype = str(call.dims[f"dtype of {self.dtype}"][1]) if self.dtype in ("T", "S") else self.dtype
        if self._checked:
            found = call.dims[self._checked]
            shapes = found if self.is_many else () if found is None else (found,)
            return [ArrayType(tuple(shape), dtype) for shape in shapes]
        sizes: list[Any] = []
        for part in self._pattern:
            if isinstance(part, int):
                sizes.append(part)
            elif part.startswith("*"):
                sizes += call.dims[part]
            else:
                sizes.append(call.dims[part])
        return [ArrayType(tuple(sizes), dtype)]
