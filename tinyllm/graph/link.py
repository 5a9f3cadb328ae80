"""Makes one call of runs of neighbouring nodes, where their backend gains by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.graph.program import Step
from tinyllm.plugins.backend import Run
from tinyllm.spec.scheme import QuantWeight


def link_runs(steps: list[Step], constants: Mapping[int, Any], kept: set[int]) -> list[Step]:
    """The steps with each run of traceable ones on one backend replaced by one call, if `Backend.link` gives one.

    kept: numbers of values that are read after the last step.
    """
    linked: list[Step] = []
    run: list[Step] = []
    for number, step in enumerate(steps):
        if run and (not step.traceable or step.backend is not run[0].backend):
            linked += _linked(run, steps[number:], constants, kept)
            run = []
        if step.traceable:
            run.append(step)
        else:
            linked.append(step)
    return linked + _linked(run, [], constants, kept)


def _linked(steps: list[Step], later: list[Step], constants: Mapping[int, Any], kept: set[int]) -> list[Step]:
    if len(steps) < 2:
        return steps
    targets = {number for step in steps for number in step.targets}
    sources = dict.fromkeys(number for step in steps for number in step.sources if number not in targets)
    packed = {n: constants[n] for n in sources if n in constants and not _is_array(constants[n])}
    read_later = kept | {number for step in later for number in step.sources}
    inputs = tuple(number for number in sources if number not in packed)
    outputs = tuple(number for step in steps for number in step.targets if number in read_later)
    backend = steps[0].backend
    function = backend.link(Run(tuple(steps), inputs, outputs, packed))
    if function is None:
        return steps
    name = f"{steps[0].name} .. {steps[-1].name}"
    return [Step("run", name, f"{backend.name}/run", function, inputs, outputs, True, backend, False)]


def _is_array(value: Any) -> bool:
    """A packed weight may know its dtype, but has no shape."""
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, QuantWeight)
