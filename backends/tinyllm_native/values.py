"""What the records of a linked run are about: rows in slots, whose sizes each step may tell."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tinyllm.plugins import numpy_dtype
from tinyllm_native.records import DTYPES

Symbol = tuple[int, str, int]
"""A size that a step tells: of which input of the run, its `shape` or its `strides`, along which axis."""
Size = int | tuple[Symbol, int]
"""A number, or a multiple of a size that a step tells."""


class NotLinked(Exception):
    """The run has something that records do not say."""


@dataclass(frozen=True)
class Value:
    """Rows `[rows, *tail]` in a slot: from `offset` bytes on, `stride` bytes from row to row; the numbers of a row are
    neighbours.

    slot: an input of the run, `~n` its temporary array n, or a further array that is made for an output.
    """

    slot: int
    rows: Size
    tail: tuple[int, ...]
    dtype: str
    stride: int
    offset: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def columns(self) -> int:
        """Numbers of a row."""
        return prod(self.tail)

    @property
    def number(self) -> int:
        """That of the dtype, as the library has them."""
        return DTYPES[self.dtype]
