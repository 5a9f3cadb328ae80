"""Reports as files: the suffix of a name says in which form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tinyllm.conformance.reports.html import html
from tinyllm.conformance.reports.json_file import read_document
from tinyllm.conformance.reports.markdown import markdown
from tinyllm.conformance.reports.report import VERSION, Report
from tinyllm.errors import InvalidInputError, TinyllmError, invalid, quoted

FORMAT = "tinyllm conformance"
SUFFIXES = (".json", ".md", ".html")


def check_suffix(path: str | Path) -> str:
    """The suffix of a report's file.

    Raises:
        InvalidInputError: none of `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise invalid(
            "report",
            str(path),
            f"a name that ends in {', '.join(SUFFIXES)}",
            repr(suffix) if suffix else "none of them",
        )
    return suffix


def check_target(path: str | Path) -> None:
    """Check before the work that a report can be written to this path, as far as can be known then.

    Raises:
        InvalidInputError: a suffix that stands for no form, or a folder that is not there.
    """
    check_suffix(path)
    if not Path(path).parent.is_dir():
        raise invalid("report", str(path), "a folder that is there", f"{Path(path).parent}")


def write(path: str | Path, reports: Sequence[Report]) -> None:
    """Write reports as one file: JSON, Markdown or HTML.

    Raises:
        InvalidInputError: a suffix that stands for none of them.
        TinyllmError: the file cannot be written.
    """
    text = rendered(check_suffix(path), reports)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise TinyllmError(f"{path}: cannot be written: {error.strerror}") from error


def rendered(suffix: str, reports: Sequence[Report]) -> str:
    """The text of a file with this suffix."""
    if suffix == ".json":
        document = {"format": FORMAT, "version": VERSION, "reports": [r.to_json() for r in reports]}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"
    return markdown(reports) if suffix == ".md" else html(reports)


def read(path: str | Path) -> list[Report]:
    """The reports of a JSON file.

    Raises:
        InvalidInputError: names the file, and the line or the field that is wrong.
    """
    reports = read_document(path, "tinyllm check", FORMAT, VERSION).get("reports")
    if not isinstance(reports, list) or not reports:
        raise InvalidInputError(f"{path}: reports: expected a list of one or more, got {quoted(reports)}")
    return [Report.from_json(report, f"{path}: reports[{number}]") for number, report in enumerate(reports)]
