"""What `tinyllm diff` prints: the first wrong node, and how far two programs have grown apart by layer."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyllm.cli.output import note, plain_console, print_table
from tinyllm.conformance.model_diff import ModelDiff, NodeDifference
from tinyllm.conformance.node_judge import Guilty

WIDTH = 32
"""Characters of the longest bar."""
LOWEST = 1e-9
"""The difference at which bars begin; they are as long as its logarithm."""
MOST = 5
"""Wrong nodes that are shown one by one."""


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal's stderr; gives a function that takes the node that was judged."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=plain_console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


def step_name(step: int) -> str:
    """`prompt`, `token 1`, ..."""
    return f"token {step}" if step else "prompt"


def show(result: ModelDiff, tokens: int, decode: int, case: Path) -> None:
    """Print the wrong nodes, and a bar for each layer."""
    show_bars(
        ["after", "node", "differs by"], [(_part(node), node.node, node.difference) for node in ends(result.nodes)]
    )
    note(
        f"{tokens - decode} tokens of a prompt and {decode} that follow; {result.judged} outputs held to the reference"
    )
    if not result.guilty:
        note("no node is past its bound")
        return
    first = result.guilty[0]
    print(f"first wrong node: {first.node.name} ({first.node.kernel}), {step_name(first.step)}: {first.message}")
    names = dict.fromkeys((guilty.node.name, guilty.node.kernel) for guilty in result.guilty[1:])
    names.pop((first.node.name, first.node.kernel), None)
    for name, kernel in [*names][:MOST]:
        print(f"wrong by itself, too: {name} ({kernel})")
    if len(names) > MOST:
        print(f"and {len(names) - MOST} more")
    note(f"its call is in {case}: tinyllm check --case {case}")


def ends(nodes: Sequence[NodeDifference]) -> list[NodeDifference]:
    """The last node of each layer, and of what comes before and behind them."""
    pairs = zip(nodes, [*nodes[1:], None], strict=True)
    return [node for node, after in pairs if after is None or after.layer != node.layer]


def _part(node: NodeDifference) -> str:
    return "" if node.layer is None else f"layer {node.layer}"


def show_bars(columns: Sequence[str], rows: Sequence[tuple[str, str, float]]) -> None:
    """Print a table with a bar on a logarithmic scale behind each number; into a pipe without bars."""
    top = max((row[-1] for row in rows if math.isfinite(row[-1])), default=0.0)
    span = math.log10(max(top, 10 * LOWEST) / LOWEST)

    def bar(value: float) -> str:
        share = 1.0 if not math.isfinite(value) else math.log10(max(value, LOWEST) / LOWEST) / span
        return "█" * round(WIDTH * share)

    drawn = sys.stdout.isatty()
    cells = [(*row[:-1], f"{row[-1]:.2e}", *([bar(row[-1])] if drawn else [])) for row in rows]
    print_table([*columns, *([""] if drawn else [])], cells)


def as_data(result: ModelDiff, tokens: int, decode: int, case: Path) -> dict[str, Any]:
    """All of it for `--json`."""
    return {
        "tokens": tokens,
        "decode": decode,
        "judged": result.judged,
        "wrong": [_guilty(guilty) for guilty in result.guilty],
        "case": str(case) if result.guilty else None,
        "nodes": [
            {
                "node": node.node,
                "op": node.op,
                "kernel": node.kernel,
                "layer": node.layer,
                "step": node.step,
                "difference": node.difference,
            }
            for node in result.nodes
        ],
    }


def _guilty(guilty: Guilty) -> dict[str, Any]:
    return {
        "node": guilty.node.name,
        "op": guilty.node.op,
        "kernel": guilty.node.kernel,
        "step": guilty.step,
        "message": guilty.message,
    }
