"""How commands print: the answer to stdout, all else to stderr; tables on a terminal, tabs between cells in a pipe."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, with which a reply could steer the terminal."""


def print_json(value: Any) -> None:
    """Print one JSON object to stdout; null for what JSON has no number for: infinities and NaN."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], grouped: bool = False) -> None:
    """Print a table; into a pipe, a header and lines of cells with tabs between them.

    grouped: on a terminal, a first cell that repeats the one above is left blank.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in ([c.upper() for c in columns], *cells):
            print("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich import box
    from rich.table import Column, Table

    headers = [Column(name, overflow="fold", no_wrap=number == 0) for number, name in enumerate(columns)]
    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)  # folded, as paths must stay whole, to be copied
    above = None
    for first, *rest in cells:
        table.add_row("" if grouped and first == above else first, *rest)
        above = first
    plain_console().print(table)


def plain_console(stderr: bool = False) -> Console:
    """A terminal of rich that shows text as it is: nothing in it is taken for markup, numbers or emoji."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, stderr=stderr)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def note(text: str) -> None:
    """Print a line to stderr. Where that cannot be written, the line is lost and the command goes on: its answer is on
    stdout."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Point a stream that cannot be written to the null device, so that nothing fails any more that writes to it,
    Python's own flush at exit included."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def say(text: str) -> None:
    """Print a part of a reply to stdout at once, without a line end; on a terminal without control characters."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def size(nbytes: int) -> str:
    """A number of bytes as `98 MB` or `1.2 GB`."""
    return f"{nbytes / 1e6:.0f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:.1f} GB"


@contextmanager
def download_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar for a download, on a terminal's stderr, from the first report on.

    Gives a function that takes the bytes that are done, and the bytes in all where they are known.
    """
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
    with _reported(Progress(*columns, console=Console(stderr=True)), label) as report:
        yield report


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal's stderr, from the first report on.

    Gives a function that takes the number that is done and the number in all.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _reported(Progress(*columns, console=Console(stderr=True), transient=True), label) as report:
        yield report


@contextmanager
def _reported(bar: Progress, label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function that tells a bar, which begins with the first report, what is done and how much there is in all."""
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
    """A line such as `loading 12/211` on a terminal's stderr, removed at the end.

    Gives a function that takes the number that is done and the number in all. Importing rich for it would cost a tenth
    of a second at every start.
    """
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
