"""`tinyllm diff` and `tinyllm bisect` against transformers: the hidden states of both, and the parts of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm.cli.diff_output import show_bars
from tinyllm.cli.output import note, print_json

if TYPE_CHECKING:
    from tinyllm.conformance.compared_model import ComparedModel
    from tinyllm.graph.program import Program


def show_transformers(
    loaded: ComparedModel, program: Program, ids: list[int], plot: Path | None, as_json: bool
) -> bool:
    """Compare and print; whether a state departs."""
    from tinyllm.conformance.transformers_diff import DEPARTS, diff_with_transformers

    states = diff_with_transformers(loaded, program, ids)
    first = next((state for state in states if state.departs), None)
    if plot is not None:
        from tinyllm.bench.diff_plot import draw

        draw({"against transformers": [(state.what, state.difference) for state in states]}, plot)
    if as_json:
        told = {"tokens": len(ids), "departs": first.what if first else None}
        print_json(told | {"states": [asdict(state) for state in states]})
        return first is not None
    show_bars(["after", "node", "differs by"], [(state.what, state.node, state.difference) for state in states])
    if first is None:
        note(f"no state of {len(ids)} tokens departs from transformers' by more than {DEPARTS:g}")
        return False
    print(
        f"first that departs: {first.what} ({first.node}), by {first.difference:.2e} at token {first.token}; its "
        f"number {first.place} is {first.ours:.6g} here and {first.theirs:.6g} there"
    )
    return True


def show_departures(
    loaded: ComparedModel, program: Program, ids: list[int], wanted: Callable[[str], bool], as_json: bool
) -> bool:
    """Find the parts that depart by themselves, and print them; whether there is one."""
    from tinyllm.conformance.transformers_bisect import bisect_with_transformers
    from tinyllm.conformance.transformers_diff import DEPARTS

    found = bisect_with_transformers(loaded, program, ids, wanted)
    if as_json:
        print_json({"tokens": len(ids), "departs": [asdict(one) for one in found]})
    elif not found:
        note(f"no layer differs: given transformers' input, each is within {DEPARTS:g} of it for {len(ids)} tokens")
    for one in found if not as_json else ():
        print(f"guilty: {one.where}" + (f", {one.part}" if one.part else "") + f", by {one.difference:.2e}")
        for name in one.suspects:
            print(f"  {name}")
    return bool(found)
