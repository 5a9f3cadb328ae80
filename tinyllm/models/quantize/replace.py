"""Writing a file or a folder so that it is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyllm.errors import InvalidInputError


def check_out(out: Path, source: Path, force: bool) -> None:
    """Raises `InvalidInputError` where `out` may not be written: it is there (with `force` only where it is no model),
    has no folder to lie in, or holds the model that is read.

    A file of a model ends in `.gguf`; a folder has a `config.json`.
    """
    if not out.parent.is_dir():
        raise InvalidInputError(f"{out}: expected an existing folder to write into, got none: {out.parent}")
    if not os.path.lexists(out):
        return
    if not force:
        raise InvalidInputError(f"{out}: is there already; --force replaces it")
    if source.resolve().is_relative_to(out.resolve()):
        raise InvalidInputError(f"{out}: expected another place than that of the model that is read")
    if not (out.is_file() if out.suffix == ".gguf" else (out / "config.json").is_file()):
        raise InvalidInputError(f"{out}: expected a model to replace, got something else")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Gives a path beside `out` to write to, which takes the place of `out` at the end; where the writing breaks off
    nothing is left of it, and what was there stays."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        made = scratch / out.name
        yield made
        if out.is_dir():  # a folder cannot be renamed over another
            out.rename(scratch / "replaced")
        made.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
