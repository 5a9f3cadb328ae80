"""A report in the terminal: progress while checks run, then a table of ops, what is bad, what is declared, the
verdict."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinyllm.cli.output import print_table
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Summary, Way, by_op, counts, failures, reasons, told, verdict
from tinyllm.conformance.reports.text import clean
from tinyllm.conformance.result import BAD, Outcome, Result

if TYPE_CHECKING:
    from rich.text import Text

HOLDS = {True: "yes", False: "no", None: "-"}
STYLES = {True: "green", False: "bold red", None: "dim"}
HEADINGS = {Outcome.UNSUPPORTED: "unsup-\nported", Outcome.UNDECLARED: "unde-\nclared"}

Step = Callable[[str, Result | None], None]


@contextmanager
def progress(total: int | None) -> Iterator[Step]:
    """A bar on a terminal's stderr. Call what it gives with the id of a check and None before it runs, with its result
    after."""
    if not sys.stderr.isatty():
        yield lambda check_id, result: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    tally = TextColumn("{task.fields[tally]}", markup=False)
    name = TextColumn(
        "{task.description}", markup=False, style="dim", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
    )
    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), tally, name)
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    seen: Counter[Outcome] = Counter()
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=5, expand=True, redirect_stdout=False
    ) as bar:
        task = bar.add_task("", total=total, tally="")

        def step(check_id: str, result: Result | None) -> None:
            if result is None:
                bar.update(task, description=clean(check_id))
                return
            seen[result.outcome] += 1
            bar.update(task, advance=1, tally=told({o: seen[o] for o in Outcome if seen[o]}))

        yield step


def show(report: Report, most: int = 10) -> None:
    """The report on stdout; of what is bad, and of reasons, at most `most` are shown and the others counted."""
    if sys.stdout.isatty():
        _print_rich_table(by_op(report))
    else:
        print_table(
            ["op", "done by", "holds", *Outcome, "worst ulps", "bound", "seconds"], [_plain(s) for s in by_op(report)]
        )
    say = _printer()
    bad = failures(report)
    for result in bad[:most]:
        say("")
        say(f"{result.outcome}  {clean(result.id)}", "bold red")
        for line in clean(result.message).splitlines():
            say(f"    {line}")
        for line in clean(result.snippet).splitlines():
            say(f"    {line}", "dim")
    if len(bad) > most:
        rest = bad[most:]
        say("")
        say(f"and {len(rest)} more: {told(counts(rest))}; --report FILE.html shows all", "bold red")
    for title, declared in (("declared exceptions", True), ("unsupported", False)):
        _list(say, title, [str(r) for r in reasons(report) if r.declared is declared], most)
    say("")
    say(clean(verdict(report)), "bold green" if report.holds else "bold red")


def _list(say: Callable[..., None], title: str, found: Sequence[str], most: int) -> None:
    if not found:
        return
    say("")
    say(f"{title}:", "bold")
    for text in found[:most]:
        say(f"  - {' '.join(text.split())}")
    if len(found) > most:
        say(f"  - and {len(found) - most} other reasons")


def _plain(summary: Summary) -> list[Any]:
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
    """Outcomes that never came up have no column."""
    from rich import box
    from rich.table import Table

    shown = [o for o in Outcome if o in (Outcome.PASS, Outcome.FAIL) or any(s.counts.get(o) for s in summaries)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("op", no_wrap=True)
    table.add_column("done by")
    table.add_column("holds", no_wrap=True)
    for outcome in shown:
        table.add_column(HEADINGS.get(outcome, outcome), justify="right", no_wrap=True)
    table.add_column("worst ulps", justify="right")
    table.add_column("s", justify="right", no_wrap=True)
    last = ""
    for summary in summaries:
        numbers = [_number(outcome, summary.counts.get(outcome, 0)) for outcome in shown]
        name = "" if summary.op == last else clean(summary.op)
        last = summary.op
        handed_over = summary.holds and summary.way in (Way.REFERENCE, Way.DELEGATION)
        verdict_cell = _styled(HOLDS[summary.holds], "yellow" if handed_over else STYLES[summary.holds])
        table.add_row(
            name,
            clean(summary.done_by) or "-",
            verdict_cell,
            *numbers,
            str(summary.worst or ""),
            f"{summary.seconds:.1f}",
        )
    _console().print(table)


def _number(outcome: Outcome, number: int) -> Text:
    style = "red" if outcome in BAD else "" if outcome is Outcome.PASS else "yellow"
    return _styled(str(number) if number else "", style)


def _styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style=style)


def _console() -> Any:
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def _printer() -> Callable[..., None]:
    """Prints a line, with a style where stdout is a terminal; lines stay whole, to be copied."""
    if not sys.stdout.isatty():
        return lambda text, style="": print(text)
    console = _console()
    return lambda text, style="": console.print(text, style=style or None, soft_wrap=True)
