"""`tinyllm new-backend`: write the first files of a backend, which passes the conformance kit as it is."""

from __future__ import annotations

import keyword
import re
from collections.abc import Container
from pathlib import Path
from typing import Annotated

import typer

from tinyllm.cli.output import note
from tinyllm.errors import InvalidInputError, invalid

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


def new_backend(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name that users will select: lower-case letters, digits and _.")
    ],
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="The folder in which the package's folder is made.")
    ] = Path(),
) -> None:
    """Write an installable backend.

    Every op works at once by its reference, softmax has a kernel of its own, and a test runs the conformance kit.
    """
    from tinyllm.registry.registry import default_registry

    plugins = default_registry().plugins
    check_name(name, {*plugins.backends, *plugins.broken})
    files = write_backend(name, folder)
    for file in files:
        print(file)
    note(f"next: pip install -e {files[0].parent} && tinyllm check {name}")


def check_name(name: str, taken: Container[str]) -> None:
    """Raises `InvalidInputError` unless the name is one that Python, pip and `name:device` take, and is not taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise invalid("new-backend", "name", "lower-case letters, digits and _, beginning with a letter", repr(name))
    if name in taken:
        raise InvalidInputError(f"new-backend: name: a backend {name!r} is there already")


def write_backend(name: str, parent: Path) -> list[Path]:
    """Write the package into `parent/tinyllm_NAME`, and return the paths of its files.

    Raises:
        InvalidInputError: the folder is there already, and nothing is overwritten; or it cannot be made.
    """
    package = f"tinyllm_{name}"
    folder = parent / package
    if folder.exists():
        raise InvalidInputError(f"{folder} is there already; nothing was written")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InvalidInputError(f"{folder}: cannot be made: {error.strerror}") from error
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
