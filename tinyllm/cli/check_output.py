"""What `tinyllm check` and `tinyllm report show` print: progress, a table of ops, failures, exceptions, the verdict."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from tinyllm.cli.output import plain_console, print_table
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Summary, Way, by_op, counts, failures, reasons, tally, verdict
from tinyllm.conformance.reports.text import clean
from tinyllm.conformance.result import BAD, Outcome, Result

HOLDS = {True: "yes", False: "no", None: "-"}
STYLES = {True: "green", False: "bold red", None: "dim"}
HEADINGS = {Outcome.UNSUPPORTED: "unsup-\nported", Outcome.UNDECLARED: "unde-\nclared"}

Step = Callable[[str, Result | None], None]


@contextmanager
def progress(total: int | None) -> Iterator[Step]:
    """A progress bar on a terminal's stderr; total: the number of checks, None where it is not known.

    Gives a function that takes the id of a check and None before the check runs, and its result afterwards.
    """
    if not sys.stderr.isatty():
        yield lambda check_id, result: None
        return
    counted = TextColumn("{task.fields[tally]}", markup=False)
    name = TextColumn(
        "{task.description}", markup=False, style="dim", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
    )
    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), counted, name)
    outcomes: Counter[Outcome] = Counter()
    with Progress(
        *columns,
        console=plain_console(stderr=True),
        transient=True,
        refresh_per_second=5,
        expand=True,
        redirect_stdout=False,
    ) as bar:
        task = bar.add_task("", total=total, tally="")

        def step(check_id: str, result: Result | None) -> None:
            if result is None:
                bar.update(task, description=clean(check_id))
                return
            outcomes[result.outcome] += 1
            bar.update(task, advance=1, tally=tally({o: outcomes[o] for o in Outcome if outcomes[o]}))

        yield step


def show(report: Report, most: int = 10) -> None:
    """Print a report to stdout; of failures and of reasons at most `most` are shown, and the others counted."""
    if sys.stdout.isatty():
        _print_rich_table(by_op(report))
    else:
        print_table(
            ["op", "done by", "holds", *Outcome, "worst ulps", "bound", "seconds"], [_plain(s) for s in by_op(report)]
        )
    print_line = _printer()
    bad = failures(report)
    for result in bad[:most]:
        print_line("")
        print_line(f"{result.outcome}  {clean(result.id)}", "bold red")
        for line in clean(result.message).splitlines():
            print_line(f"    {line}")
        for line in clean(result.snippet).splitlines():
            print_line(f"    {line}", "dim")
    if len(bad) > most:
        rest = bad[most:]
        print_line("")
        print_line(f"and {len(rest)} more: {tally(counts(rest))}; --report FILE.html shows all", "bold red")
    for title, declared in (("declared exceptions", True), ("unsupported", False)):
        _list(print_line, title, [str(r) for r in reasons(report) if r.declared is declared], most)
    print_line("")
    print_line(clean(verdict(report)), "bold green" if report.holds else "bold red")


def _list(print_line: Callable[..., None], title: str, lines: Sequence[str], most: int) -> None:
    """Print a title and at most `most` lines under it; nothing where there is no line."""
    if not lines:
        return
    print_line("")
    print_line(f"{title}:", "bold")
    for text in lines[:most]:
        print_line(f"  - {' '.join(text.split())}")
    if len(lines) > most:
        print_line(f"  - and {len(lines) - most} other reasons")


def _plain(summary: Summary) -> list[Any]:
    """The row of an op in the table for a pipe."""
    worst = summary.worst
    figures = [f"{worst.ulps:.3g}", f"{worst.bound:g}"] if worst else ["", ""]
    numbers = [summary.counts.get(outcome, 0) for outcome in Outcome]
    return [
        clean(summary.op),
        clean(summary.done_by) or "-",
        HOLDS[summary.holds],
        *numbers,
        *figures,
        f"{summary.seconds:.2f}",
    ]


def _print_rich_table(summaries: Sequence[Summary]) -> None:
    """Print the table for a terminal, without columns for outcomes that no check had."""
    shown = [o for o in Outcome if o in (Outcome.PASS, Outcome.FAIL) or any(s.counts.get(o) for s in summaries)]
    table = Table(
        Column("op", no_wrap=True),
        Column("done by"),
        Column("holds", no_wrap=True),
        *(Column(HEADINGS.get(outcome, outcome), justify="right", no_wrap=True) for outcome in shown),
        Column("worst ulps", justify="right"),
        Column("s", justify="right", no_wrap=True),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    op_above = ""
    for summary in summaries:
        numbers = [_number(outcome, summary.counts.get(outcome, 0)) for outcome in shown]
        name = "" if summary.op == op_above else clean(summary.op)
        op_above = summary.op
        handed_over = summary.holds and summary.way in (Way.REFERENCE, Way.DELEGATION)
        verdict_cell = Text(HOLDS[summary.holds], "yellow" if handed_over else STYLES[summary.holds])
        table.add_row(
            name,
            clean(summary.done_by) or "-",
            verdict_cell,
            *numbers,
            str(summary.worst or ""),
            f"{summary.seconds:.1f}",
        )
    plain_console().print(table)


def _number(outcome: Outcome, number: int) -> Text:
    style = "red" if outcome in BAD else "" if outcome is Outcome.PASS else "yellow"
    return Text(str(number or ""), style)


def _printer() -> Callable[..., None]:
    """A function that prints a line, with a style on a terminal; lines are not wrapped, so that they can be copied."""
    if not sys.stdout.isatty():
        return lambda text, style="": print(text)
    console = plain_console()
    return lambda text, style="": console.print(text, style=style or None, soft_wrap=True)
