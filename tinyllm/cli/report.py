"""`tinyllm report`: show, convert and compare the reports of `tinyllm check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options
from tinyllm.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from tinyllm.conformance.reports.diff import Diff

app = typer.Typer(help="Show, convert and compare the reports of tinyllm check.", no_args_is_help=True)


@app.command("show")
def show_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Reports as .json.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Write all reports to this .md, .html or .json file instead."
        ),
    ] = None,
    failures: Annotated[
        int, typer.Option("--failures", min=0, metavar="N", help="Show at most this many failures of a report.")
    ] = 10,
) -> None:
    """Show reports in the terminal, or write several of them as one support matrix, page or file.

    Examples: tinyllm report show torch.json

    tinyllm report show numpy.json torch.json mlx.json --output support.md
    """
    from tinyllm.cli.check_output import show
    from tinyllm.conformance.reports.files import check_target, read, write

    if output is not None:
        check_target(output)
    reports = [report for file in files for report in read(file)]
    if output is not None:
        write(output, reports)
        note(f"wrote {output}")
        return
    for report in reports:
        show(report, failures)


@app.command("diff")
def diff_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A report as .json.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A later one.")],
    as_json: options.Json = False,
) -> None:
    """Show what got worse, what was fixed and what is new between two reports. Exit code 1 if anything got worse.

    Worse is: bad now, in a new check too; no longer supported; no longer there; handed over to the reference or another
    library; an error more than twice as large and past half of its bound. What is no longer bad only by a declaration
    is excused, not fixed; new declarations and wider bounds are listed.

    Example: tinyllm report diff old.json new.json
    """
    from tinyllm.conformance.reports.diff import diff
    from tinyllm.conformance.reports.files import read

    difference = diff(read(old), read(new))
    if as_json:
        print_json(difference.to_json())
    else:
        _print_diff(difference)
    raise typer.Exit(difference.exit_code)


def _print_diff(difference: Diff) -> None:
    """Print every change but new checks that are fine: a table into a pipe, on a terminal two lines each, so that ids
    stay whole."""
    from tinyllm.conformance.reports.text import clean, plural

    new_bad = difference.new_bad
    changes = [
        *difference.regressions,
        *new_bad,
        *difference.allowances,
        *difference.excused,
        *difference.fixed,
    ]
    rows = [[" ".join(clean(text).split()) for text in (c.kind, c.id, c.old, c.new, c.message)] for c in changes]
    if rows and not sys.stdout.isatty():
        print_table(["change", "check", "was", "is", "message"], rows)
    elif rows:
        for kind, check, was, now, message in rows:
            print(
                f"{kind}  {check}\n    {was or 'not there'} -> {now or 'not there'}{': ' if message else ''}{message}"
            )
    for doubt in difference.doubts:
        note(f"not the same: {clean(doubt)}")
    if difference.not_asked:
        note(f"left out: {plural(difference.not_asked, 'check')} that the new plan did not ask for")
    bad = f" ({len(new_bad)} of them bad)" if new_bad else ""
    worse, compared = plural(len(difference.regressions), "regression"), plural(difference.compared, "check")
    excused = f", {len(difference.excused)} excused" if difference.excused else ""
    print(f"{worse}, {len(difference.fixed)} fixed{excused}, {len(difference.new)} new{bad}; {compared} compared")
