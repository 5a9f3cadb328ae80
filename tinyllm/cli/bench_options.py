"""What the `tinyllm bench` commands share: options, the backends and the model they name, a line of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tinyllm.cli.session import model_name

Rounds = Annotated[int, typer.Option(min=1, help="Rounds that are counted; their medians are shown.")]
Backends = Annotated[str, typer.Option("--backends", "-b", help="Backends, comma-separated; default: all available.")]


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal's stderr; gives a function that takes what is measured now."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def named(text: str) -> list[str]:
    """The names in a list with commas, each once: `a, b,b` as `["a", "b"]`."""
    return list(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))


def backends_named(text: str) -> list[str]:
    """The names in `--backends`, or of all available backends if none is named; each backend is loaded.

    Raises as `Registry.backend` does.
    """
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    names = named(text) or [n for n in registry.plugins.backends if registry.probe(n).available]
    for name in names:
        registry.backend(name)
    return names


def model_path(model: str | None) -> Path:
    """Where the model of `--model` lies, or the one of the settings; downloaded if it is not on this machine."""
    from tinyllm.models.download.sources import resolve

    return resolve(model_name(model))
