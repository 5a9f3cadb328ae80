"""`tinyllm new-backend`: write the first files of a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from tinyllm.cli.new_backend.starter import check_name, write_backend
    from tinyllm.cli.output import note
    from tinyllm.registry.registry import default_registry

    plugins = default_registry().plugins
    check_name(name, {*plugins.backends, *plugins.broken})
    files = write_backend(name, folder)
    for file in files:
        print(file)
    note(f"next: pip install -e {files[0].parent} && tinyllm check {name}")
