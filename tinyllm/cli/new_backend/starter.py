"""Writes the files of a new backend, which passes the conformance kit as it is."""

from __future__ import annotations

import keyword
import re
from collections.abc import Container
from pathlib import Path

from tinyllm.errors import InvalidInputError, TinyllmError, invalid

TEMPLATE = Path(__file__).parent / "template"
FILES = {
    "pyproject.toml.in": "pyproject.toml",
    "README.md.in": "README.md",
    "package/__init__.py.in": "{package}/__init__.py",
    "package/backend.py.in": "{package}/backend.py",
    "package/softmax.py.in": "{package}/softmax.py",
    "tests/test_conformance.py.in": "tests/test_conformance.py",
}
"""The files of the template, and where each is written in the new package."""


class FolderExistsError(TinyllmError):
    """The folder of the new package is there already, or cannot be made."""

    exit_code = 2


def check_name(name: str, taken: Container[str]) -> None:
    """Raises `InvalidInputError` unless the name is one that Python, pip and `name:device` take, and is not taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise invalid("new-backend", "name", "lower-case letters, digits and _, beginning with a letter", repr(name))
    if name in taken:
        raise InvalidInputError(f"new-backend: name: a backend {name!r} is there already")


def write_backend(name: str, parent: Path) -> list[Path]:
    """Write the package into `parent/tinyllm_NAME`, and return the paths of its files.

    Raises:
        FolderExistsError: the folder is there already, and nothing is overwritten; or it cannot be made.
    """
    package = f"tinyllm_{name}"
    folder = parent / package
    if folder.exists():
        raise FolderExistsError(f"{folder} is there already; nothing was written")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise FolderExistsError(f"{folder}: cannot be made: {error.strerror}") from error
    words = {
        "@NAME@": name,
        "@PACKAGE@": package,
        "@CLASS@": "".join(part.title() for part in name.split("_")) + "Backend",
    }
    written = []
    for source, target in FILES.items():
        text = (TEMPLATE / source).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        path = folder / target.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
