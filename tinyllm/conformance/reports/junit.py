"""JUnit XML, as CI servers read it: a suite for each op of a backend."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import Any

from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.text import clean
from tinyllm.conformance.result import BAD, Outcome, Result

SKIPPED = (Outcome.UNSUPPORTED, Outcome.XFAIL)


def junit(reports: Sequence[Report]) -> str:
    """What is bad is a failure; unsupported and xfail are skipped, each with its reason."""
    every = [result for report in reports for result in report.results]
    root = ET.Element("testsuites", {"name": "tinyllm conformance"} | _totals(every))
    for report in reports:
        for op in dict.fromkeys(r.op for r in report.results):
            _suite(root, report, op, [r for r in report.results if r.op == op])
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="utf-8"?>\n', "\n")
    )


def _suite(root: ET.Element, report: Report, op: str, results: list[Result]) -> None:
    about = {"name": clean(f"{report.backend}/{op}"), "timestamp": report.when}
    suite = ET.SubElement(root, "testsuite", about | _totals(results))
    facts = {"backend": report.backend, "device": report.device, **report.plan}
    facts |= {f"machine {name}": value for name, value in report.machine.items()}
    facts |= {f"version {name}": value for name, value in report.versions.items()}
    _properties(suite, facts)
    for result in results:
        _case(suite, result)


def _case(suite: ET.Element, result: Result) -> None:
    name = ".".join(part for part in (result.backend, result.op, result.kernel) if part)
    case = ET.SubElement(
        suite, "testcase", {"classname": clean(name), "name": clean(result.id), "time": f"{result.seconds:.6f}"}
    )
    known = {
        "outcome": result.outcome,
        "how": result.how,
        "worst": result.worst,
        "bound": result.bound,
        "where": result.where,
    }
    _properties(case, known | {"decision": result.decision, "declared": "; ".join(result.declared)})
    about = {"type": str(result.outcome), "message": clean(result.message)}
    if result.outcome in BAD:
        ET.SubElement(case, "failure", about).text = clean(f"{result.message}\n\n{result.snippet}".strip())
    elif result.outcome in SKIPPED:
        reason = (
            result.message if result.outcome is Outcome.UNSUPPORTED else "; ".join(result.declared) or result.message
        )
        ET.SubElement(case, "skipped", about | {"message": clean(f"{result.outcome}: {reason}")})


def _properties(parent: ET.Element, facts: dict[str, Any]) -> None:
    known = {name: value for name, value in facts.items() if value not in ("", None, ())}
    if not known:
        return
    inside = ET.SubElement(parent, "properties")
    for name, value in known.items():
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        ET.SubElement(inside, "property", {"name": clean(name), "value": clean(text)})


def _totals(results: Iterable[Result]) -> dict[str, str]:
    outcomes = [r.outcome for r in results]
    seconds = sum(r.seconds for r in results)
    numbers = {
        "tests": len(outcomes),
        "failures": sum(o in BAD for o in outcomes),
        "skipped": sum(o in SKIPPED for o in outcomes),
    }
    return {name: str(number) for name, number in (numbers | {"errors": 0}).items()} | {"time": f"{seconds:.6f}"}
