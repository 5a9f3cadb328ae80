"""`tinyllm native`: what was compiled and which of it is used, and the commands that compile and measure it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.errors import BackendUnavailableError
from tinyllm.plugins import invalid
from tinyllm_native.builder.build import build
from tinyllm_native.builder.levels import LIBRARY, levels, machine
from tinyllm_native.find import BUILD, find_library

if TYPE_CHECKING:
    from tinyllm_native.bench import Report

app = typer.Typer(help="The native backend: what is compiled of it, and the commands that compile and measure it.")


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


@app.command("bench")
def bench_command(
    scheme: Annotated[
        list[str] | None, typer.Option("--scheme", help="A scheme, or the dtype of a dense weight; may be repeated.")
    ] = None,
    level: Annotated[
        list[str] | None, typer.Option("--level", help="A level; may be repeated. Default: all that run here.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds that are counted; their medians are shown. Default: 7.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller weights and 5 rounds: rougher.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the speeds, as .png or .svg.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure products with weights of each scheme, at each level that is compiled and runs here.

    One row, as in decoding, in GB/s of the packed weight, and its share of what this machine reads at most; 128 rows,
    as in a prompt, in GFLOP/s, with exact activations and with those of `--fast`.

    Example: tinyllm native bench --scheme q4_0 --scheme q4_k --plot native.svg
    """
    from rich.console import Console

    from tinyllm_native.bench import QUICK, Plan, check_schemes, levels_here, measure
    from tinyllm_native.bench_plot import check_plot, draw

    plan = QUICK if quick else Plan()
    plan = replace(plan, schemes=check_schemes(scheme or plan.schemes), rounds=rounds or plan.rounds)
    there = levels_here()
    for name in level or ():
        if name not in there:
            raise invalid("native bench", "--level", f"one of {', '.join(there)}", repr(name))
    if plot is not None:
        check_plot(plot)
    with Console(stderr=True).status("starting") as status:
        report = measure(plan, [name for name in there if not level or name in level], status.update)
    if as_json:
        print(json.dumps(report.document(), indent=2 if sys.stdout.isatty() else None))
    else:
        _print_report(report)
    if plot is not None:
        draw(report, plot)


def _print_report(report: Report) -> None:
    """Print the speeds, a section for each level, and to stderr what was measured."""
    plan = report.plan
    rows, above = [], ""
    for speed in report.speeds:
        if above not in ("", speed.level) and sys.stdout.isatty():
            rows.append(("",) * 7)
        shown = "" if sys.stdout.isatty() and speed.level == above else speed.level
        of_read = f"{speed.gb_s / report.read_gb_s:.0%}"
        rounded = "" if speed.rounded is None else f"{speed.rounded:.0f}"
        numbers = (f"{speed.bits:.2f}", f"{speed.gb_s:.1f}", of_read, f"{speed.exact:.0f}", rounded)
        rows.append((shown, speed.scheme, *numbers))
        above = speed.level
    columns = ("level", "scheme", "bits", "GB/s", "of memory", "GFLOP/s", "rounded")
    _table(columns, rows, words=2)
    sizes = f"1 row by {plan.rows}x{plan.columns}, {plan.many} rows by {plan.many_rows}x{plan.columns}"
    print(f"{sizes}, {report.threads} threads, medians of {plan.rounds}", file=sys.stderr)
    print(f"memory: {report.read_gb_s:.1f} GB/s at most, by numpy's {report.read_by} on all cores", file=sys.stderr)


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], words: int | None = None) -> None:
    """Print a table; into a pipe, lines of cells with tabs between them. The columns after so many `words` are
    numbers."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [tuple(c.upper() for c in columns), *rows]))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    left = len(columns) if words is None else words
    headers = [Column(name, justify="left" if number < left else "right") for number, name in enumerate(columns)]
    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
