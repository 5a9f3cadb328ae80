"""The file that `--plot` names: refused before any work where it cannot be written, and written in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyllm.errors import TinyllmError, invalid

SUFFIXES = (".png", ".svg")


def check_plot(where: str, path: Path) -> None:
    """Everything that can be known to go wrong, before minutes are spent on measuring. where: the command, for the
    message.

    Raises:
        InvalidInputError: another suffix, or a folder that is not there. TinyllmError: matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise invalid(where, "--plot", f"a file that ends in {' or '.join(SUFFIXES)}", path)
    if not path.parent.is_dir():
        raise invalid(where, "--plot", "a file in a folder that exists", path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TinyllmError("--plot needs matplotlib; install it with: pip install 'tinyllm[bench]'") from error


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure. Raises `TinyllmError` where the file cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise TinyllmError(f"{path}: cannot be written: {error.strerror}") from error
