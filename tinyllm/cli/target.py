"""A file that an option names to be written: refused before any work where it cannot be."""

from __future__ import annotations

import os
from pathlib import Path

from tinyllm.errors import InvalidInputError, TinyllmError


def check_target(what: str, path: Path) -> None:
    """Raises `InvalidInputError` where no file can be written, so that no model runs for nothing. Leaves what is there
    as it is. what: the file, for the message."""
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise InvalidInputError(
            f"{what} {path}: expected a file in a folder that exists, got "
            f"{'a folder' if os.path.isdir(path) else 'none'}"
        )
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that no file can have
        raise InvalidInputError(f"{what} {path}: cannot be written: {error.strerror}") from error
    if not os.access(path if os.path.exists(path) else path.parent, os.W_OK):
        raise InvalidInputError(f"{what} {path}: cannot be written: permission denied")


def write_target(what: str, path: Path, text: str) -> None:
    """Write the file. Raises `TinyllmError` where that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TinyllmError(f"{what} {path}: cannot be written: {error.strerror}") from error
