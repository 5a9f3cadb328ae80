"""The pytest side of the kit: options, and the reports at the end. Loaded by every pytest run, so it imports nothing
heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tinyllm.conformance.checks.check import Check, Plan
    from tinyllm.conformance.result import Result
    from tinyllm.conformance.run import Runner

OPTIONS = {
    "backend": "Backend on trial, `name` or `name:device`; may be repeated. Default: all that can run here.",
    "tier": "smoke, full (smoke included), model, fuzz; commas between several. Default: smoke.",
    "op": "Only this op; may be repeated.",
    "dtype": "Only this dtype; may be repeated.",
    "kernel": "Only kernels of this name; may be repeated.",
    "scheme": "Of quantized weights only those of this scheme; may be repeated.",
    "case": "Only the check of this id, as a report prints it.",
    "seed": "Seed of the inputs. Default: 0.",
    "shapes": "Cases from this file, written by `tinyllm trace`, instead of those of the specs.",
    "oracle": "Outside judge: onnx, torch; may be repeated.",
    "report": "Write a report: a path ending in .json, .md or .html; may be repeated.",
}
REPEATED = ("backend", "op", "dtype", "kernel", "scheme", "oracle", "report")
KEPT = pytest.StashKey["Session"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--tinyllm-backend` and the like."""
    group = parser.getgroup("tinyllm", "conformance of tinyllm backends (with --pyargs tinyllm.conformance)")
    for name, text in OPTIONS.items():
        action = "append" if name in REPEATED else "store"
        group.addoption(
            f"--tinyllm-{name}",
            dest=f"tinyllm_{name}",
            action=action,
            default=[] if name in REPEATED else "",
            help=text,
        )


class Session:
    """The checks of a pytest run, collected once."""

    def __init__(self, config: pytest.Config) -> None:
        from tinyllm.conformance.collect import collect
        from tinyllm.conformance.run import Runner
        from tinyllm.registry.registry import default_registry

        registry = default_registry()
        self.checks: list[tuple[Check, Runner]] = []
        for plan in _plans(config):
            runner = Runner(registry, plan)
            self.checks += [(check, runner) for check in collect(registry, plan)]


def _plans(config: pytest.Config) -> list[Plan]:
    from tinyllm.conformance.checks.check import TIERS, Plan
    from tinyllm.registry.registry import default_registry

    given: dict[str, Any] = {name: config.getoption(f"tinyllm_{name}") for name in OPTIONS}
    if not (given["seed"] or "0").isdecimal():
        raise pytest.UsageError(f"--tinyllm-seed: expected a whole number, got {given['seed']!r}")
    registry = default_registry()
    names = given["backend"] or [n for n in registry.plugins.backends if registry.probe(n).available]
    tiers = TIERS if given["case"] else tuple(t.strip() for t in (given["tier"] or "smoke").split(","))
    return [
        Plan(
            name,
            tiers,
            tuple(given["op"]),
            tuple(given["dtype"]),
            tuple(given["kernel"]),
            tuple(given["scheme"]),
            given["case"],
            int(given["seed"] or 0),
            tuple(given["oracle"]),
            given["shapes"],
        )
        for name in names
    ]


def kept(config: pytest.Config) -> Session:
    """The one of this run; an unknown name in an option ends the run with the nearest ones."""
    from tinyllm.errors import TinyllmError

    if KEPT not in config.stash:
        try:
            config.stash[KEPT] = Session(config)
        except TinyllmError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[KEPT]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """What was asked for is looked at before files are: while one is collected, a wrong name would count as the file's
    error."""
    if any(session.config.getoption(f"tinyllm_{name}") for name in OPTIONS if name != "tier"):
        kept(session.config)


def judge_outcome(result: Result) -> None:
    """The six outcomes in pytest's words: what is unsupported is skipped with its reason, and never passes."""
    from tinyllm.conformance.result import BAD, Outcome

    if result.outcome in BAD:
        pytest.fail(f"{result.id}: {result.outcome}: {result.message}\n{result.snippet}", pytrace=False)
    if result.outcome is Outcome.UNSUPPORTED:
        pytest.skip(f"unsupported: {result.message}")
    if result.outcome is Outcome.XFAIL:
        pytest.xfail(f"{', '.join(result.declared)}: {result.message}")


def pytest_configure(config: pytest.Config) -> None:
    """What could not be written at the end is told at the beginning."""
    if config.getoption("tinyllm_report"):
        from tinyllm.conformance.reports.files import check_target
        from tinyllm.errors import TinyllmError

        try:
            for path in config.getoption("tinyllm_report"):
                check_target(path)
        except TinyllmError as error:
            raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(Collector(), "tinyllm-conformance-results")


PROPERTY = "tinyllm conformance"


class Collector:
    """The results of all checks, those of other processes (pytest-xdist) too: they come with the tests' reports."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has run, here or elsewhere."""
        if report.when == "call":
            self.rows += [value for name, value in report.user_properties if name == PROPERTY]  # type: ignore[misc]

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """How each backend did, and the reports asked for."""
        if not self.rows or hasattr(config, "workerinput"):
            return
        from tinyllm.conformance.reports.files import write
        from tinyllm.conformance.reports.report import Report
        from tinyllm.conformance.reports.summary import idle, verdict
        from tinyllm.conformance.result import Result
        from tinyllm.registry.registry import default_registry

        reports = []
        for plan in _plans(config):
            report = Report.begin(default_registry(), plan)
            for row in self.rows:
                if row["backend"] == report.backend:
                    report.add(Result.from_json(row))
            reports.append(report)
        terminalreporter.section("tinyllm conformance")
        for report in reports:
            terminalreporter.write_line(verdict(report))
            for declaration in idle(report, default_registry().plugins.declarations):
                terminalreporter.write_line(
                    f"warning: {declaration.name}: no check was about it ({declaration.reason})"
                )
        for path in config.getoption("tinyllm_report"):
            write(path, reports)
