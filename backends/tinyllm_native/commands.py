"""`tinyllm native`: what was compiled and which of it is used, and the command that compiles it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import typer

from tinyllm.errors import BackendUnavailableError
from tinyllm_native.builder.build import build
from tinyllm_native.builder.levels import LIBRARY, levels, machine
from tinyllm_native.find import BUILD, find_library

app = typer.Typer(help="The native backend: what is compiled of it, and the command that compiles it.")


@app.callback(invoke_without_command=True)
def show(context: typer.Context) -> None:
    """The native backend: which levels of it are compiled, and which is used here.

    Example: TINYLLM_NATIVE_ISA=avx2 tinyllm native
    """
    if context.invoked_subcommand is not None:
        return
    found, order = find_library(), list(levels(machine()))
    runs = order.index(found.runs) if found.runs else -1
    rows = [
        (
            level,
            _word(level in found.levels),
            _word(number <= runs) if found.runs else "unknown",
            _word(level == found.level),
        )
        for number, level in enumerate(order)
    ]
    _table(("level", "compiled", "this processor", "used"), rows)
    told = f"built by {found.compiler} in {LIBRARY}" if found.level else f"{found.reason}; run: {BUILD}"
    print(told, file=sys.stderr)


@app.command("build")
def build_command() -> None:
    """Compile the native backend for this machine, all of its levels at the same time.

    It takes $CC, cc, gcc or clang, or else the compiler of `pip install ziglang`.

    Example: CC=clang tinyllm native build
    """
    from rich.console import Console

    started = time.monotonic()
    try:
        with Console(stderr=True).status("compiling the native backend"):
            built = build()
    except OSError as error:
        raise BackendUnavailableError(f"native: cannot write {LIBRARY}: {error.strerror or error}") from error
    if built.reason:
        raise BackendUnavailableError(f"native: {built.reason}")
    seconds = time.monotonic() - started
    print(f"{built.compiler} compiled {', '.join(built.levels)} in {seconds:.1f} s; used here: {find_library().level}")
    for level, wrong in built.left_out.items():
        print(f"left out: {level}: {wrong}", file=sys.stderr)


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table; into a pipe, lines of cells with tabs between them."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [tuple(c.upper() for c in columns), *rows]))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
