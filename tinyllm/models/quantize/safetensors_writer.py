"""Writes safetensors piece by piece: the whole of a model is never in memory.

Source: the safetensors specification, as `checkpoints.safetensors` reads it. The safetensors package takes all tensors
at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tinyllm.models.checkpoints.safetensors import DTYPES

Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Dtype and shape of each tensor, by name."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


class SafetensorsWriter:
    """A file with a place for each tensor of a layout, which `write` fills from its first number to its last."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._file, self._at, start = file, dict[str, int](), 0
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        # those of large items first, so that all are aligned
        for name, (dtype, shape) in sorted(layout.items(), key=lambda item: -item[1][0].itemsize):
            end = start + prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": (start, end)}
            self._at[name], start = start, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        file.write(len(text).to_bytes(8, "little") + text)
        begin = file.tell()
        self._at = {name: begin + at for name, at in self._at.items()}
        file.truncate(begin + start)

    def write(self, name: str, numbers: NDArray[Any]) -> None:
        """The next numbers of a tensor, in its dtype."""
        self._file.seek(self._at[name])
        self._at[name] += self._file.write(np.ascontiguousarray(numbers).view(np.uint8).data)
