"""One entry of a batch has nothing to do with the others: for every op whose outputs have leading axes."""

from __future__ import annotations

from typing import Any

from tinyllm.conformance.example import Example
from tinyllm.conformance.properties.random_calls import random_call
from tinyllm.conformance.properties.search import Draws, Property
from tinyllm.conformance.subject import Subject
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantWeight

OTHERS = {
    "mask": 3,
    "key_mask": 2,
    "positions": 2,
    "offset": 1,
    "kv_lengths": 1,
    "key": 3,
    "value": 3,
    "past_k": 4,
    "past_v": 4,
}
"""Inputs that have patterns of their own, and the fewest axes at which the first is that of the batch."""


def neighbours(subject: Subject, draws: Draws) -> str:
    """The first entry gives the same whatever the others hold, and without them."""
    spec = subject.spec
    count, draws.sizes = draws.pick(2, 3), (2, 1, 3, 5, 8)  # empty entries show nothing
    inputs, attributes = random_call(draws, spec, (count, *draws.pick((), (2,))))
    example = Example(spec, "drawn", draws.dtype, inputs, attributes)
    draws.must_be_valid(example)
    lead = example.call.dims[_group(spec)]
    past_lead = len(spec.inputs[0].shape.split()) - 1
    if example.call.attributes.get("axis") in (0, -len(lead) - past_lead):
        draws.reject("the axis is that of the batch")
    batched = [name for name, value in inputs.items() if _batched(spec, name, value, lead)]
    if lead[:1] != (count,) or not batched:
        draws.reject("nothing has an axis for the batch")
    alone = draws.run(subject, inputs | {name: _first(inputs[name]) for name in batched}, **attributes)
    changed = {name: _changed(draws, inputs[name]) for name in batched}
    for others, what in ((inputs, "another"), (inputs | changed, "a changed")):
        run = draws.run(subject, others, **attributes)
        message = draws.differ(alone, *(_first(o) for o in run.outputs))
        if message:
            return f"the first of a batch beside {what} entry: {message}"
    return ""


def _group(spec: OpSpec) -> str:
    """The name of the leading axes."""
    return (
        spec.outputs[0].shape.split()[0] if spec.outputs[0].shape.startswith("*") else spec.inputs[0].shape.split()[0]
    )


def _batched(spec: OpSpec, name: str, value: Any, lead: tuple[int, ...]) -> bool:
    """Whether the first axis of an input is that of the batch."""
    pattern = next(i.shape for i in spec.inputs if i.name == name).split()
    rank, first = len(value.shape), value.shape[:1]
    if name == "sinks" and spec.name == "sdpa":  # a sink for each head, and the heads are the last leading axis
        return len(lead) == 1
    if name in OTHERS and pattern[0].startswith("*"):
        return rank >= OTHERS[name] and first == lead[:1]
    return pattern[:1] == [_group(spec)] and rank == len(lead) + len(pattern) - 1 and first == lead[:1]


def _first(value: Any) -> Any:
    """The first entry, in a batch of one."""
    if isinstance(value, QuantWeight):
        return value.rows(lambda array: array[:1], (1, *value.shape[1:-1]))
    return value[:1]


def _changed(draws: Draws, value: Any) -> Any:
    """Other numbers in all entries but the first: larger floats, flipped bools, and of integers those of the first."""
    if isinstance(value, QuantWeight):
        parts = value.scheme.parts(value.shape)
        return value.with_arrays({n: _changed(draws, a) if parts[n].by_row else a for n, a in value.arrays.items()})
    changed = value.copy()
    if value.dtype.kind in "iu":
        changed[1:] = value[:1]
    elif value.dtype == bool:
        changed[1:] = ~value[1:]
    else:
        changed[1:] = draws.cast(draws.rng.standard_normal(value[1:].shape) * 8).astype(value.dtype)
    return changed


def neighbours_of(spec: OpSpec) -> tuple[Property, ...]:
    """The property, for an op that has leading axes."""
    given = bool(spec.inputs and spec.outputs) and _group(spec).startswith("*")
    return (Property("batch neighbours", spec.name, neighbours),) if given else ()
