"""What commands print: stdout holds the answer, stderr all else; tables for a terminal, tabs for a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Characters with which a reply could take over a terminal."""


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], grouped: bool = False) -> None:
    """A table; through a pipe, a header and lines of cells with tabs between them. grouped: first cells that repeat are
    left blank."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in ([c.upper() for c in columns], *cells):
            print("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)  # paths must stay whole, to be copied
    last = None
    for first, *rest in cells:
        table.add_row("" if grouped and first == last else first, *rest)
        last = first
    Console(markup=False, highlight=False, emoji=False).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A bit of a reply on stdout, at once; on a terminal without control characters."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def size(nbytes: int) -> str:
    """Bytes as people read them."""
    return f"{nbytes / 1e6:.0f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:.1f} GB"


@contextmanager
def download_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar for bytes on stderr, drawn from the first report on, and only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(label, total=None)

    def report(done: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        bar.stop()


@contextmanager
def loading_line(label: str) -> Iterator[Callable[[int, int], None]]:
    """`loading 12/211` on a terminal's stderr, wiped at the end. Drawn by hand: rich would cost a tenth of a second of
    every start."""
    shown = sys.stderr.isatty()

    def report(done: int, total: int) -> None:
        if shown:
            sys.stderr.write(f"\r\x1b[2K{label} {done}/{total}")
            sys.stderr.flush()

    try:
        yield report
    finally:
        if shown:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
