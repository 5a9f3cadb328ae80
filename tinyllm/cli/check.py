"""`tinyllm check`: prove a backend op by op."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options
from tinyllm.errors import InvalidInputError

if TYPE_CHECKING:
    from tinyllm.conformance.checks.check import Plan
    from tinyllm.conformance.result import Result

Names = list[str] | None


def check(
    backend: Annotated[
        str | None, typer.Argument(metavar="BACKEND", show_default="the selected one", help="name or name:device.")
    ] = None,
    tier: Annotated[
        str, typer.Option("--tier", metavar="TIERS", help="smoke, full (with smoke), model, fuzz; commas between.")
    ] = "smoke",
    op: Annotated[Names, typer.Option("--op", metavar="OP", help="Only this op; may be repeated.")] = None,
    dtype: Annotated[Names, typer.Option("--dtype", metavar="DTYPE", help="Only this dtype; may be repeated.")] = None,
    kernel: Annotated[
        Names, typer.Option("--kernel", metavar="NAME", help="Only kernels of this name; may be repeated.")
    ] = None,
    case: Annotated[
        str, typer.Option("--case", metavar="ID", help="Only this check, such as 'sdpa[L3,S5,D4,f32]'.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the inputs.")] = 0,
    shapes: Annotated[
        str, typer.Option("--shapes", metavar="FILE", help="Cases from a real run (see tinyllm trace).")
    ] = "",
    oracle: Annotated[
        Names, typer.Option("--oracle", metavar="NAME", help="Outside judge: onnx, torch; may be repeated.")
    ] = None,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Each op in a process of its own: an abort costs one check.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", min=0.1, max=86400, help="Cut off a check so late.")
    ] = None,
    own: Annotated[bool, typer.Option("--own", help="Fail where an op runs by reference or by delegation.")] = False,
    report: Annotated[
        Names, typer.Option("--report", metavar="FILE", help="Write .json, .xml (JUnit), .md or .html; repeatable.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run the conformance kit: every op of a backend against the specs' float64 references, properties, safety and
    errors.

    Ends with code 0 if the backend holds, 1 if anything failed.
    """
    from tinyllm.cli.output import note, print_json
    from tinyllm.conformance.checks.check import TIERS, Plan
    from tinyllm.conformance.collect import collect
    from tinyllm.conformance.isolate import isolated_ops, run_isolated
    from tinyllm.conformance.reports import terminal
    from tinyllm.conformance.reports.files import check_target, write
    from tinyllm.conformance.reports.report import Report
    from tinyllm.conformance.reports.summary import Way, by_op, idle
    from tinyllm.conformance.run import run
    from tinyllm.registry.registry import default_registry

    for path in report or ():
        check_target(path)
    name = backend or _selected()
    if "=" in name:
        raise InvalidInputError(f"check: expected one backend at a time, got {name!r}")
    tiers = TIERS if case else tuple(t.strip() for t in tier.split(","))
    ops = tuple(op or ()) or _op_of(case)
    plan = Plan(name, tiers, ops, tuple(dtype or ()), tuple(kernel or ()), case, seed, tuple(oracle or ()), shapes)
    apart = isolate or timeout is not None
    names = isolated_ops(plan, timeout) if apart else []
    registry = default_registry()
    checks = [] if apart else collect(registry, plan)
    found = Report.begin(registry, plan)
    with terminal.progress(None if apart else len(checks)) as step, _stdout_kept(as_json):
        started = partial(_started, step)
        results = run_isolated(plan, names, timeout, started) if apart else run(registry, plan, checks, started)
        try:
            for result in results:
                found.add(result)
                step(result.id, result)
        except KeyboardInterrupt:
            found.add(_interrupted(plan, len(found.results)))
    if as_json:
        print_json(found.to_json())
    else:
        terminal.show(found)
    for path in report or ():
        write(path, [found])
    if found.results and found.results[-1].id == INTERRUPTED:
        raise KeyboardInterrupt
    for declaration in idle(found, registry.plugins.declarations):
        note(f"warning: {declaration.name}: no check was about it ({declaration.reason})")
    missing = sorted({s.op for s in by_op(found) if s.way in (Way.REFERENCE, Way.DELEGATION)}) if own else []
    if missing:
        note(f"not by kernels of its own: {', '.join(missing)}")
    if missing or not found.holds:
        raise typer.Exit(1)


INTERRUPTED = "interrupted"


def _interrupted(plan: Plan, number: int) -> Result:
    """The last result of a run that was broken off: it does not hold, whatever was found so far."""
    from tinyllm.conformance.result import Outcome, Result

    return Result(
        INTERRUPTED, plan.backend, "arrays", "", "", "", "", Outcome.FAIL, f"broken off after {number} checks", how=""
    )


def _started(step: Callable[[str, Result | None], None], check_id: str) -> None:
    step(check_id, None)


def _selected() -> str:
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    selection = registry.select()
    if selection.per_op:
        raise InvalidInputError(f"check: {selection.source} gives ops different backends; name the one to check")
    return selection.default or registry.best()


def _op_of(case: str) -> tuple[str, ...]:
    """The op in the id of a check, so that only its checks are collected."""
    op = case.partition("[")[0].rpartition("/")[2].partition(":")[0]
    return (op,) if op and "[" in case else ()


@contextmanager
def _stdout_kept(wanted: bool) -> Iterator[None]:
    """Where stdout is for the JSON alone, what kernels print goes to stderr."""
    with redirect_stdout(sys.stderr) if wanted else nullcontext():
        yield
