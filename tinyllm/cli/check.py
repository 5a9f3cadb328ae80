"""`tinyllm check`: run the conformance kit on a backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options
from tinyllm.errors import InvalidInputError

if TYPE_CHECKING:
    from tinyllm.conformance.checks.check import Plan
    from tinyllm.conformance.result import Result

Names = list[str] | None

SOLUTION_TIMEOUT = 60.0
"""Seconds that a check of a solution may take where nobody said: strangers' code may hang."""


def check(
    backend: Annotated[
        str | None, typer.Argument(metavar="BACKEND", show_default="the selected one", help="A name, or name:device.")
    ] = None,
    tier: Annotated[
        str,
        typer.Option(
            "--tier", metavar="TIERS", help="smoke, full (which includes smoke), model, fuzz; commas between several."
        ),
    ] = "smoke",
    op: Annotated[Names, typer.Option("--op", metavar="OP", help="Only this op; may be repeated.")] = None,
    dtype: Annotated[Names, typer.Option("--dtype", metavar="DTYPE", help="Only this dtype; may be repeated.")] = None,
    kernel: Annotated[
        Names, typer.Option("--kernel", metavar="NAME", help="Only kernels of this name; may be repeated.")
    ] = None,
    scheme: Annotated[
        Names,
        typer.Option(
            "--scheme", metavar="NAME", help="Of quantized weights only those of this scheme; may be repeated."
        ),
    ] = None,
    case: Annotated[
        str,
        typer.Option(
            "--case", metavar="ID|FILE", help="Only this check, such as 'sdpa[L3,S5,D4,f32]'; or a call in a file."
        ),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the inputs.")] = 0,
    shapes: Annotated[
        str, typer.Option("--shapes", metavar="FILE", help="Replay the calls of this file, which tinyllm trace wrote.")
    ] = "",
    solution: Annotated[
        str,
        typer.Option(
            "--solution",
            metavar="FILE",
            help="Judge the kernel in this file, a solution of FlashInfer-Bench or Python with run. Its code is run.",
        ),
    ] = "",
    definitions: options.Definitions = "",
    oracle: Annotated[
        Names,
        typer.Option(
            "--oracle", metavar="NAME", help="Compare with another library as well: onnx, torch; may be repeated."
        ),
    ] = None,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Run each op in a process of its own, so that an abort costs one check.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="S", min=0.1, max=86400, help="Seconds that a check may take before it is cut off."
        ),
    ] = None,
    own: Annotated[bool, typer.Option("--own", help="Fail where an op runs by reference or by delegation.")] = False,
    files: Annotated[
        Names, typer.Option("--report", metavar="FILE", help="Write a .json, .md or .html file; may be repeated.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run the conformance kit: every op of a backend against the specs' float64 references, properties, safety and
    errors.

    Ends with code 0 if every check holds, 1 if anything failed.
    """
    from tinyllm.cli import check_output
    from tinyllm.cli.output import note, print_json
    from tinyllm.conformance.checks.check import TIERS, Plan
    from tinyllm.conformance.collect import collect, expect_id
    from tinyllm.conformance.isolate import isolated_ops, run_isolated
    from tinyllm.conformance.node_case import is_case_file
    from tinyllm.conformance.reports.files import check_target, write
    from tinyllm.conformance.reports.report import Report
    from tinyllm.conformance.reports.summary import Way, by_op, idle
    from tinyllm.conformance.run import run
    from tinyllm.conformance.solution import planned
    from tinyllm.definitions.solution import KERNEL
    from tinyllm.registry.registry import default_registry

    for file in files or ():
        check_target(file)
    registry = default_registry()
    ops = tuple(op or ()) or _op_of(case)
    kernels = tuple(kernel or ())
    if solution:
        if len(ops) > 1 or kernels or shapes:
            raise InvalidInputError("check: --solution is one kernel of one op: leave out --kernel and --shapes")
        judged, definitions = planned(registry, solution, definitions, ops[0] if ops else "")
        ops, kernels, backend, timeout = (judged,), (KERNEL,), backend or "torch", timeout or SOLUTION_TIMEOUT
    elif definitions:
        raise InvalidInputError("check: --definitions goes with --solution")
    if not is_case_file(case):
        expect_id(case, registry)
    made_on = _backend_of(case) if is_case_file(case) else ""
    name = backend or made_on or _selected()
    if "=" in name:
        raise InvalidInputError(f"check: expected one backend at a time, got {name!r}")
    tiers = TIERS if case else tuple(t.strip() for t in tier.split(","))
    dtypes, schemes, oracles = (tuple(names or ()) for names in (dtype, scheme, oracle))
    plan = Plan(name, tiers, ops, dtypes, kernels, schemes, case, seed, oracles, shapes, solution, definitions)
    apart = isolate or timeout is not None
    names = isolated_ops(plan, timeout) if apart else []
    checks = [] if apart else collect(registry, plan)
    report = Report.begin(registry, plan)
    with check_output.progress(None if apart else len(checks)) as step, _stdout_to_stderr(as_json):

        def on_start(check_id: str) -> None:
            step(check_id, None)

        results = run_isolated(plan, names, timeout, on_start) if apart else run(registry, plan, checks, on_start)
        try:
            for result in results:
                report.add(result)
                step(result.id, result)
        except KeyboardInterrupt:
            report.add(_interrupted(plan, len(report.results)))
    if as_json:
        print_json(report.to_json())
    else:
        check_output.show(report)
    for file in files or ():
        write(file, [report])
    if report.results and report.results[-1].id == INTERRUPTED:
        raise KeyboardInterrupt
    for declaration in idle(report, registry.plugins.declarations):
        note(f"warning: {declaration.name}: no check was about it ({declaration.reason})")
    handed_over = sorted({s.op for s in by_op(report) if s.way in (Way.REFERENCE, Way.DELEGATION)}) if own else []
    if handed_over:
        note(f"not by kernels of its own: {', '.join(handed_over)}")
    if handed_over or not report.holds:
        raise typer.Exit(1)


INTERRUPTED = "interrupted"
"""The id of the result that stands for the checks which Ctrl-C kept from running."""


def _interrupted(plan: Plan, number: int) -> Result:
    """The last result of a run that Ctrl-C ended: a failure, whatever the checks before it found."""
    from tinyllm.conformance.result import Outcome, Result

    return Result(
        INTERRUPTED, plan.backend, "arrays", "", "", "", "", Outcome.FAIL, f"broken off after {number} checks", how=""
    )


def _selected() -> str:
    """The backend of the settings. Raises `InvalidInputError` where they give ops different backends."""
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    selection = registry.select()
    if selection.per_op or selection.per_node:
        raise InvalidInputError(f"check: {selection.source} gives ops different backends; name the one to check")
    return selection.default or registry.best()


def _backend_of(file: str) -> str:
    """The backend that the call in a file was made on. Raises `InvalidInputError` for a file that is no case."""
    from tinyllm.conformance.node_case import read_case
    from tinyllm.registry.registry import default_registry

    return read_case(Path(file), default_registry()).backend


def _op_of(case: str) -> tuple[str, ...]:
    """The op in the id of a check, so that only its checks are collected."""
    op = case.partition("[")[0].rpartition("/")[2].partition(":")[0]
    return (op,) if op and "[" in case else ()


@contextmanager
def _stdout_to_stderr(as_json: bool) -> Iterator[None]:
    """Where stdout is for the JSON alone, send what kernels print to stderr."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield
