"""`tinyllm check`: prove a backend op by op."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyllm.conformance.checks.check import Plan
    from tinyllm.conformance.result import Result
    from tinyllm.registry import Registry

Names = list[str] | None


def check(
    backend: Annotated[str | None, typer.Argument(metavar="BACKEND", show_default="the selected one", help="name or name:device.")] = None,
    tier: Annotated[str, typer.Option("--tier", metavar="TIERS", help="smoke, full (with smoke), model, fuzz; commas between.")] = "smoke",
    op: Annotated[Names, typer.Option("--op", metavar="OP", help="Only this op; may be repeated.")] = None,
    dtype: Annotated[Names, typer.Option("--dtype", metavar="DTYPE", help="Only this dtype; may be repeated.")] = None,
    kernel: Annotated[Names, typer.Option("--kernel", metavar="NAME", help="Only kernels of this name; may be repeated.")] = None,
    case: Annotated[str, typer.Option("--case", metavar="ID", help="Only this check, such as 'sdpa[L3,S5,D4,f32]'.")] = "",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the inputs.")] = 0,
    shapes: Annotated[str, typer.Option("--shapes", metavar="FILE", help="Cases from a real run (see tinyllm trace).")] = "",
    oracle: Annotated[Names, typer.Option("--oracle", metavar="NAME", help="Outside judge: onnx, torch; may be repeated.")] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Each op in a process of its own: an abort costs one check.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="S", min=0.1, help="Cut off a check after S seconds.")] = None,
    report: Annotated[Names, typer.Option("--report", metavar="FILE", help="Write .json, .xml (JUnit), .md or .html; repeatable.")] = None,
    as_json: options.Json = False,
) -> None:
    """Run the conformance kit: every op of a backend against the specs' float64 references, properties, safety and errors.

    Ends with code 0 if the backend holds, 1 if anything failed.
    """
    from tinyllm.cli.output import print_json
    from tinyllm.conformance.checks.check import TIERS, Plan
    from tinyllm.conformance.reports import terminal
    from tinyllm.conformance.reports.files import check_suffix, write
    from tinyllm.conformance.reports.report import Report
    from tinyllm.registry import default_registry

    registry = default_registry()
    name = backend or registry.select().default or registry.best()
    tiers = TIERS if case else tuple(t.strip() for t in tier.split(","))
    plan = Plan(name, tiers, tuple(op or ()), tuple(dtype or ()), tuple(kernel or ()), case, seed, tuple(oracle or ()), shapes)
    for path in report or ():
        check_suffix(path)
    found = Report.begin(registry, plan)
    total, results = _start(registry, plan, isolate or timeout is not None, timeout)
    with terminal.progress(total) as step:
        for result in results:
            found.add(result)
            step(result.id, result)
    for path in report or ():
        write(path, [found])
    if as_json:
        print_json(found.to_json())
    else:
        terminal.show(found)
    if not found.holds:
        raise typer.Exit(1)


def _start(registry: Registry, plan: Plan, isolated: bool, timeout: float | None) -> tuple[int, Iterator[Result]]:
    """The number of checks and their results; collecting here finds wrong names before any process is started."""
    from tinyllm.conformance.collect import collect
    from tinyllm.conformance.isolate import run_isolated
    from tinyllm.conformance.run import run

    checks = collect(registry, plan)
    ops = dict.fromkeys(check.op for check in checks)
    return len(checks), run_isolated(plan, ops, timeout) if isolated else run(registry, plan, checks)
