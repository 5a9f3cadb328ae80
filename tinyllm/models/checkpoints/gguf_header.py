"""What a GGUF file says besides its numbers, of one that is there and of one that is not written yet."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. `shape` is in numpy's order (rows last in the file come first); `start` counts from the
    first byte of `map`, its file, or the numbers of one that is in none yet."""

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    nbytes: int
    map: mmap.mmap | bytes


class GgufHeader(Protocol):
    """What a GGUF file says besides its numbers."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Values by key."""

    @property
    def tensors(self) -> Mapping[str, GgufTensor]:
        """Tensors by name."""


@dataclass(frozen=True)
class GgufDraft:
    """The header of a file that is not written yet."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
