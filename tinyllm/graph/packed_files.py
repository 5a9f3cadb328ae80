"""Packed weights on disk: made once, then mapped by every process that binds the same checkpoint to the same kernel.

What is of another version, another key or too short is never read: it is made anew. What cannot be kept stays in
memory, and a warning says why.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tinyllm.errors import CacheWarning
from tinyllm.graph.packed_folder import make_room, touch
from tinyllm.graph.packed_format import MALFORMED, Arrays, head_of, in_memory, read, write


class PackedFiles:
    """The packed weights of a checkpoint in a folder, which is made when the first is kept.

    Args:
        folder: where the packed weights of all checkpoints lie.
        name: what people call the checkpoint.
        limit: most bytes of the folder; None: any number. What others use less goes first. Processes that write at once
            may go past it together, by what they write between two looks at the folder.
    """

    def __init__(self, folder: Path, name: str = "", limit: int | None = None) -> None:
        self.folder, self.name, self.limit = folder, name, limit
        self.written = 0
        """Bytes of the files that were made here."""
        self._used: set[Path] = set()
        self._room = float("inf") if limit is None else 0.0
        self._said: set[str] = set()
        self._failed = False

    def path(self, checkpoint: str, weight: str, form: str, layout: str) -> Path:
        """Where the packed form of a weight lies: in the folder of its checkpoint and layout."""
        return self.folder / _digest(checkpoint, layout) / f"{_digest(weight, form)}.packed"

    def find(self, checkpoint: str, weight: str, form: str, layout: str) -> Arrays | None:
        """The arrays of a packed form, mapped and read-only; None where there is no file that holds just this."""
        path = self.path(checkpoint, weight, form, layout)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
                if hasattr(mmap, "MADV_HUGEPAGE"):  # of small pages each is looked up anew when a weight is read
                    mapped.madvise(mmap.MADV_HUGEPAGE)
            finally:
                os.close(handle)
            found = read(mapped, [checkpoint, weight, form, layout])
        except (OSError, *MALFORMED):  # no such file, or one that is empty, truncated, written by something else
            return None
        if found is not None and path.parent not in self._used:
            self._used.add(path.parent)
            touch(path.parent)
        return found

    def keep(self, arrays: Mapping[str, np.ndarray], checkpoint: str, weight: str, form: str, layout: str) -> Arrays:
        """Write a packed form and give it back mapped. Several processes may do so at once: each file is put in its
        place whole. Where it cannot be kept, a `CacheWarning` says why, and what comes back is a copy in memory."""
        if self._failed:
            return in_memory(arrays)
        key = [checkpoint, weight, form, layout]
        target = self.path(*key)
        head, starts, size = head_of(arrays, key, self.name)
        try:
            if not self._has_room(size):
                self._say(f"more than cache_size allows, {self.limit} bytes")
                return in_memory(arrays)
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=target.parent, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    write(file, arrays, head, starts, size)
                    file.flush()
                    os.fsync(handle)  # the name must not be there before the content, whenever the machine stops
                found = self.find(*key)
                if found is None:
                    os.replace(part, target)
            finally:
                Path(part).unlink(missing_ok=True)
        except OSError as error:
            self._failed = True  # the next would fail as well, and it takes time to find out
            self._say(f"cannot be written: {error.strerror}")
            return in_memory(arrays)
        if found is not None:  # another process was faster, and its file serves both
            return found
        self.written += size
        self._room -= size
        found = self.find(*key)
        if found is None:  # another process has cleared the folder meanwhile
            self._say("was changed while it was written")
        return in_memory(arrays) if found is None else found

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes fit; the folder is looked at where that is in doubt."""
        if self._room < size and self.limit is not None:
            self._room = make_room(self.folder, size, self.limit, self._used)
        return self._room >= size

    def _say(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            what = f"{self.name}: " if self.name else ""
            warnings.warn(
                f"packed weights: {what}{self.folder}: {why}; they stay in memory, and the next start packs them again",
                CacheWarning,
                stacklevel=2,
            )


def _digest(*names: str) -> str:
    return hashlib.blake2b(json.dumps(names).encode(), digest_size=16).hexdigest()
