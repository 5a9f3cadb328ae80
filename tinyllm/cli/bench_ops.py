"""`tinyllm bench ops`: measure each op, and print its speed as tables or JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import options
from tinyllm.cli.bench_options import Backends, Rounds, backends_named, named, progress
from tinyllm.cli.output import note, plain_console, print_json, print_table

if TYPE_CHECKING:
    from tinyllm.bench.op_result import OpReport, OpResult
    from tinyllm.bench.report import Comparison

FIGURES = ("cold us", "spread", "hot us", "GB/s", "GFLOP/s", "of roof", "x numpy", "of best", "first ms")
PHASE_ORDER = ("decode", "prefill", "other")


def ops_command(
    ops: Annotated[str, typer.Option("--ops", help="Ops, comma-separated; default: all.")] = "",
    backends: Backends = "",
    rounds: Rounds = 7,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="OLD.json",
            help="An earlier report of --json; an op that is slower than in it gives exit code 1.",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", metavar="X", help="With --compare: an op is slower if it takes more than X times as long."
        ),
    ] = 1.2,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw every op on the roofline, as .png or .svg.")
    ] = None,
    solution: Annotated[
        Path | None,
        typer.Option(
            "--solution",
            metavar="FILE",
            help="Measure the kernel in this file as the first of --backends (torch): each timed call is judged. "
            "Its code runs in this process. Plain Python needs one --ops.",
        ),
    ] = None,
    definitions: options.Definitions = "",
    as_json: options.Json = False,
) -> None:
    """Measure every op at decode and prefill shapes, in float32: whether it is right, how fast it is, and its share of
    this machine's roofline.

    An op whose result is wrong is not timed. Cold: the inputs are in no cache; GB/s, GFLOP/s and shares are those of
    cold calls. Hot: the same inputs again and again. Exit code 1 if an op is wrong, fails, or is slower than --compare
    allows.

    Examples: tinyllm bench ops --ops linear,sdpa --backends torch,mlx

    tinyllm bench ops --solution kernel.py --ops rms_norm --backends numpy,native

    tinyllm bench ops --json > old.json; tinyllm bench ops --compare old.json --plot roofline.svg
    """
    from tinyllm.bench.op_result import BAD
    from tinyllm.bench.ops import bench_ops
    from tinyllm.bench.plot import draw
    from tinyllm.bench.plot_file import check_plot
    from tinyllm.bench.report import check_common, check_threshold, compared, document, read_report
    from tinyllm.bench.solution import of_solution
    from tinyllm.errors import InvalidInputError
    from tinyllm.registry.registry import default_registry

    check_threshold(threshold)
    if plot is not None:
        check_plot("bench ops", plot)
    old = read_report(compare) if compare is not None else None
    registry, op_names, subjects = default_registry(), named(ops), None
    if definitions and solution is None:
        raise InvalidInputError("bench ops: --definitions goes with --solution")
    if solution is not None:
        backend_names = backends_named(backends or "torch")
        registry, op_names, subjects = of_solution(solution, definitions, op_names, backend_names[0])
    else:
        backend_names = backends_named(backends)
    op_names = op_names or sorted(registry.specs)
    for op in op_names:
        registry.spec(op)
    if old is not None:
        check_common(old, op_names, backend_names)
    with progress() as step:
        report = bench_ops(registry, backend_names, op_names, rounds, step, subjects)
    new = document(report, registry, backend_names, rounds)
    comparison = compared(old, new, threshold) if old is not None else None
    if as_json:
        print_json(new | ({"comparison": _as_json(comparison, compare, threshold)} if comparison else {}))
    else:
        _print_report(report)
    unplaced = draw(report, plot) if plot is not None else []
    _print_notes(report, unplaced)
    if comparison:
        _print_comparison(comparison, compare, threshold)
    if any(r.status in BAD for r in report.results) or (comparison and comparison.regressions):
        raise typer.Exit(1)


def _print_report(report: OpReport) -> None:
    """Print a table for each phase on a terminal, and one table with a column for the phase into a pipe."""
    for device, roof in report.roofs.items():
        note(f"roof on {device}: {roof.gb_s:.1f} GB/s, {roof.gflop_s:.0f} GFLOP/s")
    ordered = sorted(report.results, key=lambda r: PHASE_ORDER.index(r.phase))
    if not sys.stdout.isatty():
        rows = [[r.phase, r.op, _shape(r), r.backend, r.kernel, r.status, *_figures(r)] for r in ordered]
        print_table(["phase", "op", "case", "backend", "kernel", "status", *FIGURES], rows)
        return
    for phase in PHASE_ORDER:
        shown = [r for r in ordered if r.phase == phase]
        if shown:
            _print_phase(phase, shown)


def _print_phase(phase: str, results: Sequence[OpResult]) -> None:
    """Print a table with a section for each op; the fastest of a case is bold, what is wrong is red."""
    from rich import box
    from rich.table import Column, Table

    table = Table(
        Column("op", no_wrap=True, style="cyan"),
        Column("case", overflow="fold"),
        Column("kernel", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in FIGURES),
        title=phase,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    above: tuple[str, str] = ("", "")
    for r in results:
        if above[0] not in ("", r.op):
            table.add_section()
        op, case = "" if r.op == above[0] else r.op, "" if (r.op, r.case) == above else _shape(r)
        figures = _figures(r) if r.cold else [r.status, *[""] * (len(FIGURES) - 1)]
        table.add_row(op, case, _short(r), *figures, style=_style(r))
        above = (r.op, r.case)
    plain_console().print(table)


def _style(result: OpResult) -> str:
    if result.cold is None:
        return "dim" if result.status == "unsupported" else "red"
    return "bold" if result.vs_best == 1 else ""


def _shape(result: OpResult) -> str:
    """The id of the case without its phase, which has a column of its own."""
    return result.case.removeprefix(f"{result.phase}:")


def _short(result: OpResult) -> str:
    """Backend and kernel without the op, which has a column of its own: `torch plain`."""
    return f"{result.backend} {result.kernel.rpartition(':')[2]}".strip()


def _figures(result: OpResult) -> list[str]:
    """The cells under `FIGURES`, empty where a figure is not known."""
    if not (result.cold and result.hot):
        return [""] * len(FIGURES)
    cold, rates = result.cold, ["", ""]
    if result.bytes or result.flops:
        rates = [_number(cold.gb_s), _number(cold.gflop_s)]
    return [
        f"{1e6 * cold.median:.1f}",
        f"{cold.spread:.0%}",
        f"{1e6 * result.hot.median:.1f}",
        *rates,
        "" if cold.of_roof is None else _share(cold.of_roof),
        "" if result.vs_numpy is None else f"{result.vs_numpy:.2f}",
        "" if result.vs_best is None else _share(result.vs_best),
        "" if result.first_call is None else f"{1e3 * result.first_call:.2f}",
    ]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.1 else f"{part:.1%}"


def _print_notes(report: OpReport, unplaced: list[str]) -> None:
    """Print the reasons of what was not timed, and the ops that have no place on the plot."""
    for r in report.results:
        if r.reason:
            note(f"{r.status}: {r.op} {r.case} on {r.backend}: {r.reason}")
    for text in report.notes:
        note(text)
    if unplaced:
        note(f"not on the roofline, as they neither move nor compute anything: {', '.join(unplaced)}")


def _print_comparison(comparison: Comparison, old: Path | None, threshold: float) -> None:
    for doubt in comparison.doubts:
        note(f"{old} was measured elsewhere: {doubt}")
    for regression in comparison.regressions:
        note(f"slower: {regression}")
    ops = len({(r.op, r.case, r.backend) for r in comparison.regressions})
    note(f"{ops} of {comparison.compared} are slower than {threshold:g} times {old}")


def _as_json(comparison: Comparison, old: Path | None, threshold: float) -> dict[str, Any]:
    regressions = [asdict(r) | {"ratio": r.ratio} for r in comparison.regressions]
    return {
        "with": str(old),
        "threshold": threshold,
        "compared": comparison.compared,
        "regressions": regressions,
        "doubts": list(comparison.doubts),
    }
