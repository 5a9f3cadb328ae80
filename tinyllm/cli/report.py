"""`tinyllm report`: show, convert and compare what `tinyllm check` found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tinyllm.conformance.reports.diff import Diff

app = typer.Typer(help="Show, convert and compare the reports of tinyllm check.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("show")
def show_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Reports as .json.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Write this .md, .html, .xml or .json instead, one for all."
        ),
    ] = None,
    failures: Annotated[
        int, typer.Option("--failures", min=0, metavar="N", help="Show at most this many failures of a report.")
    ] = 10,
) -> None:
    """Reports in the terminal; or several of them as one support matrix, page or file.

    Examples: tinyllm report show torch.json

    tinyllm report show numpy.json torch.json mlx.json --output support.md
    """
    from tinyllm.cli.output import note
    from tinyllm.conformance.reports import check_target, read, write
    from tinyllm.conformance.reports.terminal import show

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
    as_json: Json = False,
) -> None:
    """What got worse, what was mended and what is new between two reports. Exit code 1 if anything got worse.

    Worse is: bad now, in a new check too; no longer supported; no longer there; handed over to the reference or another
    library; an error more than twice as large and past half of its bound. What is no longer bad only by a declaration
    is excused, not fixed; new declarations and wider bounds are listed.

    Example: tinyllm report diff old.json new.json
    """
    from tinyllm.cli.output import print_json
    from tinyllm.conformance.reports import read
    from tinyllm.conformance.reports.diff import diff

    found = diff(read(old), read(new))
    if as_json:
        print_json(found.to_json())
    else:
        _print_diff(found)
    raise typer.Exit(found.exit_code)


def _print_diff(found: Diff) -> None:
    """Changes except checks that are new and fine: a table through a pipe, on a terminal two lines each, so that ids
    stay whole."""
    import sys

    from tinyllm.cli.output import note, print_table
    from tinyllm.conformance.reports.text import clean, plural

    added = found.new_bad
    changes = [*found.regressions, *added, *found.allowances, *found.excused, *found.fixed]
    rows = [[" ".join(clean(text).split()) for text in (c.kind, c.id, c.old, c.new, c.message)] for c in changes]
    if rows and not sys.stdout.isatty():
        print_table(["change", "check", "was", "is", "message"], rows)
    elif rows:
        for kind, check, was, now, message in rows:
            print(
                f"{kind}  {check}\n    {was or 'not there'} -> {now or 'not there'}{': ' if message else ''}{message}"
            )
    for doubt in found.doubts:
        note(f"not the same: {clean(doubt)}")
    if found.not_asked:
        note(f"left out: {plural(found.not_asked, 'check')} that the new plan did not ask for")
    bad = f" ({len(added)} of them bad)" if added else ""
    worse, compared = plural(len(found.regressions), "regression"), plural(found.compared, "check")
    excused = f", {len(found.excused)} excused" if found.excused else ""
    print(f"{worse}, {len(found.fixed)} fixed{excused}, {len(found.new)} new{bad}; {compared} compared")
