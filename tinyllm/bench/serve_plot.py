"""`tinyllm bench serve --plot FILE`: how times spread, and how the run went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.bench.plot_file import save
from tinyllm.bench.serve import Run
from tinyllm.bench.serve_client import Outcome
from tinyllm.bench.serve_result import TIMES, Summary
from tinyllm.errors import TinyllmError

_BINS = 60


def draw(run: Run, summary: Summary, path: Path) -> None:
    """Write the plot: the share of requests by time to first token, time per token and end to end; tokens and requests
    over time.

    Raises:
        TinyllmError: no request succeeded, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    good = [o for o in run.outcomes if o.error is None]
    if not good:
        raise TinyllmError(f"{path}: nothing to draw: no request succeeded")
    values = {"first_token": [o.first_token for o in good], "token_seconds": [o.token_seconds for o in good]}
    values["end_to_end"] = [o.seconds for o in good]
    figure = Figure(figsize=(15, 8), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    for column, (name, found) in enumerate(values.items()):
        _distribution(
            figure.add_subplot(grid[0, column]),
            TIMES[name],
            [v for v in found if v is not None],
            getattr(summary, name),
        )
    _course(figure.add_subplot(grid[1, :]), good)
    figure.suptitle(
        f"{run.target.model}: {summary.requests_per_second:.2f} requests/s, {summary.tokens_per_second:.1f} tok/s, "
        f"{sum(summary.errors.values())} failed"
    )
    save(figure, path)


def _distribution(panel: Any, title: str, values: list[float], spread: Any) -> None:
    panel.set(title=title, xlabel="ms", ylabel="share of requests", ylim=(0, 1.02))
    panel.grid(True, alpha=0.25)
    if not values:
        return
    ordered = np.sort(np.array(values)) * 1e3
    panel.step(np.concatenate([ordered[:1], ordered]), np.arange(len(ordered) + 1) / len(ordered), where="post")
    for number, name in enumerate(("p50", "p90", "p99")):
        value = 1e3 * getattr(spread, name)
        panel.axvline(value, color=f"C{number + 1}", linestyle="--", linewidth=1, label=f"{name} {value:.1f}")
    panel.legend(loc="lower right", fontsize=8)


def _course(panel: Any, good: list[Outcome]) -> None:
    """Tokens per second, and how many requests ran, over the time of the run."""
    start, end = min(o.started for o in good), max(o.ended for o in good)
    edges = np.linspace(start, end, _BINS + 1)
    width = (end - start) / _BINS or 1.0
    tokens = np.zeros(_BINS)
    for outcome in good:  # a chunk may hold several tokens: each counts as its share of the reply
        counts, _ = np.histogram(outcome.times, edges)
        tokens += counts * (outcome.tokens / max(1, len(outcome.times)))
    middles = (edges[:-1] + edges[1:]) / 2
    running = [sum(o.started <= at < o.ended for o in good) for at in middles]
    panel.bar(middles - start, tokens / width, width=width, alpha=0.5, label="tok/s")
    panel.set(xlabel="seconds since the start", ylabel="tok/s")
    panel.grid(True, alpha=0.25)
    right = panel.twinx()
    right.step(middles - start, running, where="mid", color="C3", label="requests running")
    right.set(ylabel="requests running", ylim=(0, None))
    handles = [h for axes in (panel, right) for h in axes.get_legend_handles_labels()[0]]
    panel.legend(handles, ["tok/s", "requests running"], loc="upper right", fontsize=8)
