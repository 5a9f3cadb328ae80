"""What stands under `tinyllm greet`."""

from __future__ import annotations

import typer

from tinyllm.errors import UnsupportedError

app = typer.Typer(help="Greetings.")


@app.command()
def hello(name: str) -> None:
    """Greet somebody."""
    print(f"Hello, {name}.")


@app.command()
def shout() -> None:
    """Refuse to."""
    raise UnsupportedError("greet: nobody shouts here")
