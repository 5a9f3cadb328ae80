"""`tinyllm bench ops --plot FILE`: every op on the roofline of the device it ran on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinyllm.bench.op_result import PHASES, OpReport, OpResult
from tinyllm.bench.plot_file import save
from tinyllm.errors import TinyllmError

NO_ARITHMETIC = 2.0**-5
"""FLOP per byte at which ops are drawn that only move data, as a roofline has no place for 0: what they lack to the
roof stays true."""


def point(result: OpResult) -> tuple[float, float] | None:
    """FLOP per byte and GFLOP/s of an op on cold data; None for one that was not timed, or that neither moves nor
    computes anything."""
    if result.cold is None or not result.bytes:
        return None
    if not result.flops:
        return NO_ARITHMETIC, NO_ARITHMETIC * result.cold.gb_s
    return result.flops / result.bytes, result.cold.gflop_s


def draw(report: OpReport, path: Path) -> list[str]:
    """Write the plot, a panel per phase. An op is a number, explained at the side; a colour is a backend. Gives the ops
    that have no place.

    Raises:
        TinyllmError: nothing was timed, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    points = {id(r): found for r in report.results if (found := point(r))}
    if not points:
        raise TinyllmError(f"{path}: nothing to draw: no op was timed")
    shown = [r for r in report.results if id(r) in points]
    ops = {op: number for number, op in enumerate(sorted({r.op for r in shown}), 1)}
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(sorted(r.backend for r in shown)))}
    phases = [p for p in (*PHASES, "other") if any(r.phase == p for r in shown)]
    figure = Figure(figsize=(7.5 * len(phases) + 2.5, 7), layout="constrained")
    panels = figure.subplots(1, len(phases), sharex=True, sharey=True, squeeze=False)[0]
    for panel, phase in zip(panels, phases, strict=True):
        _panel(panel, report, [(r, points[id(r)]) for r in shown if r.phase == phase], ops, colours)
        panel.set_title(f"{phase}, float32, cold")
    panels[0].set_ylabel("GFLOP/s")
    figure.legend(handles=_legend(ops, colours), loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)
    return sorted({r.op for r in report.results if r.cold and id(r) not in points})


def _panel(
    panel: Any, report: OpReport, shown: Iterable[tuple[OpResult, tuple[float, float]]], ops: Any, colours: Any
) -> None:
    """The roofs, and a numbered dot for each result."""
    import numpy as np

    shown = list(shown)
    panel.set(xscale="log", yscale="log", xlabel="FLOP per byte (left edge: ops that only move data)")
    panel.grid(True, which="major", alpha=0.25)
    right = max([256.0, *(x for _, (x, _) in shown)])
    for device, roof in report.roofs.items():
        xs = np.geomspace(NO_ARITHMETIC, right, 200)
        label = f"{device}: {roof.gb_s:.1f} GB/s, {roof.gflop_s:.0f} GFLOP/s"
        panel.plot(xs, [roof.roof(x) for x in xs], color="black", linewidth=1.2)
        panel.annotate(
            label, (right, roof.gflop_s), (0, 3), textcoords="offset points", ha="right", va="bottom", fontsize=8
        )
    for result, (x, y) in shown:
        panel.scatter([x], [y], s=95, color=colours[result.backend], alpha=0.8, linewidths=0)
        panel.text(x, y, str(ops[result.op]), ha="center", va="center", fontsize=6.5, color="white")


def _legend(ops: dict[str, int], colours: dict[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    dots = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in colours.items()]
    return dots + [Line2D([], [], linestyle="", label=f"{number}  {op}") for op, number in ops.items()]
