"""What the benches' commands share: options, the backends they name, a line of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds that count; medians are shown.")]
Backends = Annotated[str, typer.Option("--backends", "-b", help="Backends, comma-separated; default: all available.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Folder, .gguf file, hub id or known name.")]


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal's stderr that says what is being measured."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def named(text: str) -> list[str]:
    """`a, b,b` as `["a", "b"]`."""
    return list(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))


def backends_named(text: str) -> list[str]:
    """The backends of `--backends`, loaded; all that are available if none is named."""
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    names = named(text) or [n for n in registry.plugins.backends if registry.probe(n).available]
    for name in names:
        registry.backend(name)
    return names
