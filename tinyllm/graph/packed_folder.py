"""The folder of packed weights as a whole: what is in it, what goes when it is full, and how it is emptied.

In it is a folder for each checkpoint and layout. The time when such a folder was last changed is when its weights were
last used: whoever begins to read from it touches it. Files that some process has mapped may be removed: it keeps what
it has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tinyllm.graph.packed_format import read_names


@dataclass(frozen=True)
class Packed:
    """The packed weights of one checkpoint in one layout.

    Args:
        folder: where they lie. files: how many they are. nbytes: bytes of these, those of unfinished files included.
        used: when they were last used, in seconds since 1970.
    """

    folder: Path
    files: int
    nbytes: int
    used: float

    def names(self) -> tuple[str, str]:
        """What people call the checkpoint, and the layout, as a file says; the folder's own name where none can be
        read."""
        for path in sorted(self.folder.glob("*.packed")):
            with suppress(FileNotFoundError), path.open("rb") as file:  # another process may remove it meanwhile
                if found := read_names(file):
                    return found
        return self.folder.name, ""


def contents(folder: Path) -> list[Packed]:
    """All that lies in the folder, what was not used for the longest time first. What others remove meanwhile is left
    out."""
    found = []
    for entry in _scan(folder):
        with suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                files = [(file.name, file.stat().st_size) for file in _scan(Path(entry.path))]
                whole = [name for name, _ in files if name.endswith(".packed")]
                found.append(
                    Packed(Path(entry.path), len(whole), sum(size for _, size in files), entry.stat().st_mtime)
                )
    return sorted(found, key=lambda packed: (packed.used, packed.folder))


def touch(folder: Path) -> None:
    """Say that what lies in a folder of packed weights is used now."""
    with suppress(OSError):  # a folder that cannot be written to is one where nothing is removed to make room either
        os.utime(folder)


def make_room(folder: Path, nbytes: int, limit: int, mine: Collection[Path]) -> int:
    """Remove what was not used for the longest time until `nbytes` more keep the folder within `limit` bytes.

    mine: what is not removed. Where that leaves no room, nothing is removed.

    Returns:
        The bytes that fit now; below `nbytes` where there was no room to be made.
    """
    found = contents(folder)
    free = limit - sum(packed.nbytes for packed in found)
    others = [packed for packed in found if packed.folder not in mine]
    if free + sum(packed.nbytes for packed in others) < nbytes:
        return free
    for packed in others:
        if free >= nbytes:
            break
        remove(packed)
        free += packed.nbytes
    return free


def remove(packed: Packed) -> None:
    """Remove packed weights, and what processes that died left unfinished beside them."""
    with suppress(FileNotFoundError):  # another process was faster
        shutil.rmtree(packed.folder)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
