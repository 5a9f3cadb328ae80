"""Compiles runs of traceable calls where the backend gains by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.graph.program import Step


def compile_regions(steps: list[Step], constants: Mapping[int, Any], kept: set[int]) -> list[Step]:
    """Replace each run of traceable calls on one backend by one compiled call, if the backend compiles.

    No Python value that changes between steps enters a region: its arguments are arrays, weights included.
    """
    result: list[Step] = []
    run: list[Step] = []
    for number, step in enumerate(steps):
        if run and (not step.traceable or step.backend is not run[0].backend):
            result += _compiled(run, steps[number:], constants, kept)
            run = []
        if step.traceable:
            run.append(step)
        else:
            result.append(step)
    return result + _compiled(run, [], constants, kept)


def _compiled(run: list[Step], later: list[Step], constants: Mapping[int, Any], kept: set[int]) -> list[Step]:
    if len(run) < 2:
        return run
    made = {slot for step in run for slot in step.targets}
    sources = tuple(dict.fromkeys(slot for step in run for slot in step.sources if slot not in made))
    wanted = kept | {slot for step in later for slot in step.sources}
    targets = tuple(slot for step in run for slot in step.targets if slot in wanted)
    plain = {slot: constants[slot] for slot in sources if slot in constants and not _is_array(constants[slot])}
    arguments = tuple(slot for slot in sources if slot not in plain)

    def region(*arrays: Any) -> tuple[Any, ...]:
        values = dict(zip(arguments, arrays, strict=True)) | plain
        for step in run:
            result = step.function(*[values[slot] for slot in step.sources])
            values.update(zip(step.targets, result if step.several else (result,), strict=True))
        return tuple(values[slot] for slot in targets)

    function = run[0].backend.compile(region)
    if function is None:
        return run
    name = f"{run[0].name} .. {run[-1].name}"
    return [Step("region", name, function, arguments, targets, run[0].backend, False, True)]


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype")
