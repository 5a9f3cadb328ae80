"""`tinyllm diff --plot FILE`: how far two programs grow apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tinyllm.bench.plot_file import save
from tinyllm.conformance.model_diff import ModelDiff

LOWEST = 1e-9
"""What a difference of nothing is drawn as, since a logarithm has no place for 0."""


def draw_nodes(result: ModelDiff, path: Path) -> None:
    """Every node in the order in which they run, the wrong ones marked. Raises as `draw` does."""
    wrong = {guilty.node.name for guilty in result.guilty}
    names = [f"layer {node.layer}" if node.layer is not None else node.node for node in result.nodes]
    points = {"every node": [(name, node.difference) for name, node in zip(names, result.nodes, strict=True)]}
    marked = [number for number, node in enumerate(result.nodes) if node.node in wrong]
    draw(points, path, marked)


def draw(lines: Mapping[str, Sequence[tuple[str, float]]], path: Path, marked: Sequence[int] = ()) -> None:
    """Write the plot: differences on a logarithmic scale, a label where it changes from one point to the next.

    Raises:
        TinyllmError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panel = figure.subplots()
    for label, points in lines.items():
        values = [max(value, LOWEST) if value != float("inf") else 1e3 for _, value in points]
        panel.plot(range(len(values)), values, marker=".", linewidth=1, label=label)
        if marked:
            panel.scatter(marked, [values[number] for number in marked], color="red", zorder=3, label="wrong by itself")
        names = [name for name, _ in points]
        ticks = [number for number, name in enumerate(names) if number == 0 or name != names[number - 1]]
        few = ticks[:: max(1, len(ticks) // 24)]
        panel.set_xticks(few, [names[number] for number in few], rotation=60, ha="right", fontsize=7)
    panel.set(yscale="log", ylabel="difference, relative to the largest number")
    panel.grid(True, axis="y", alpha=0.25)
    panel.legend(frameon=False, fontsize=8)
    save(figure, path)
