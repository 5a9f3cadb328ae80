"""`tinyllm native bench --plot FILE`: speeds by scheme, a bar for each level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyllm.errors import TinyllmError
from tinyllm.plugins import invalid
from tinyllm_native.bench import Report

SUFFIXES = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Everything that can be known to go wrong, before minutes are spent on measuring.

    Raises:
        InvalidInputError: another suffix, or a folder that is not there. TinyllmError: matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise invalid("native bench", "--plot", f"a file that ends in {' or '.join(SUFFIXES)}", path)
    if not path.parent.is_dir():
        raise invalid("native bench", "--plot", "a file in a folder that exists", path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TinyllmError("--plot needs matplotlib; install it with: pip install 'tinyllm[bench]'") from error


def draw(report: Report, path: Path) -> None:
    """Write the plot: one row in GB/s below the line of what memory gives, and many rows in GFLOP/s, exact and, paler
    behind it, rounded.

    Raises:
        TinyllmError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    schemes = list(dict.fromkeys(speed.scheme for speed in report.speeds))
    of_levels = list(dict.fromkeys(speed.level for speed in report.speeds))
    figure = Figure(figsize=(4 + 1.2 * len(schemes), 8), layout="constrained")
    one, many = figure.subplots(2, 1, sharex=True)
    width = 0.8 / len(of_levels)
    for number, level in enumerate(of_levels):
        found = [speed for speed in report.speeds if speed.level == level]
        at = [schemes.index(speed.scheme) + width * (number - (len(of_levels) - 1) / 2) for speed in found]
        style: dict[str, Any] = {"width": width, "color": f"C{number}"}
        one.bar(at, [speed.gb_s for speed in found], label=level, **style)
        many.bar(at, [speed.rounded or 0.0 for speed in found], alpha=0.35, **style)
        many.bar(at, [speed.exact for speed in found], **style)
    one.axhline(report.read_gb_s, color="black", linestyle="--", linewidth=1, label="memory at most")
    one.set(ylabel="GB/s of the packed weight", title="one row")
    many.set(ylabel="GFLOP/s", title=f"{report.plan.many} rows: exact, and paler with activations as one byte")
    many.set_xticks(range(len(schemes)), schemes)
    figure.legend(*one.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    for panel in (one, many):
        panel.grid(True, axis="y", alpha=0.25)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise TinyllmError(f"{path}: cannot be written: {error.strerror}") from error
