"""`tinyllm new-backend`: the first files of a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_backend(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What users will select: lower-case letters, digits and _.")
    ],
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where the package's folder goes.")] = Path(),
) -> None:
    """Write an installable backend: every op works at once by its reference, softmax has a kernel, and a test runs the
    kit."""
    from tinyllm.cli.new_backend.starter import check_name, write_backend
    from tinyllm.cli.output import note
    from tinyllm.registry.registry import default_registry

    plugins = default_registry().plugins
    check_name(name, {*plugins.backends, *plugins.broken})
    files = write_backend(name, folder)
    for file in files:
        print(file)
    note(f"next: pip install -e {files[0].parent} && tinyllm check {name}")
