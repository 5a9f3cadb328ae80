"""Properties of mixtures of experts."""

from __future__ import annotations

import numpy as np

from tinyllm.conformance.properties.random_calls import random_call
from tinyllm.conformance.properties.search import Draws, Property
from tinyllm.conformance.subject import Subject

OF_TOKENS = ("x", "logits", "experts", "weights")
"""Inputs with a row for each token."""


def order_of_tokens(subject: Subject, draws: Draws) -> str:
    """Tokens have nothing to do with one another: in another order they give the same."""
    inputs, attributes = random_call(draws, subject.spec)
    given = [name for name in OF_TOKENS if name in inputs]
    order = draws.rng.permutation(len(inputs[given[0]]))
    run = draws.run(subject, inputs, **attributes)
    other = draws.run(subject, inputs | {name: inputs[name][order] for name in given}, **attributes)
    return draws.differ(other, *(output[order] for output in run.outputs))


def experts_that_nobody_goes_to(subject: Subject, draws: Draws) -> str:
    """They are not multiplied: not even with 0, as they may hold NaN."""
    inputs, attributes = random_call(draws, subject.spec)
    others = np.setdiff1d(np.arange(len(inputs["gate_proj"])), inputs["experts"])
    run = draws.run(subject, inputs, **attributes)
    changed = {name: inputs[name].copy() for name in inputs if name.endswith(("_proj", "_bias"))}
    for array in changed.values():
        array[others] = np.nan
    return draws.differ(run, *draws.run(subject, inputs | changed, **attributes).outputs)


def sum_of_its_experts(subject: Subject, draws: Draws) -> str:
    """What several experts give, all there are at most, is the sum of what each gives alone."""
    inputs, attributes = random_call(draws, subject.spec)
    slots = range(inputs["experts"].shape[1])
    run = draws.run(subject, inputs, **attributes)
    alone = [{name: inputs[name][:, slot : slot + 1].copy() for name in ("experts", "weights")} for slot in slots]
    runs = [draws.run(subject, inputs | one, **attributes) for one in alone]
    return draws.beyond(run.first, sum(one.first for one in runs), run.error + sum(one.error for one in runs))


PROPERTIES = (
    Property("order of tokens", "moe_router", order_of_tokens),
    Property("order of tokens", "moe_experts", order_of_tokens),
    Property("experts that nobody goes to", "moe_experts", experts_that_nobody_goes_to),
    Property("sum of its experts", "moe_experts", sum_of_its_experts),
)
