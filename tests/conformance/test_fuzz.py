"""The fuzz tier finds a planted bug in a corner, draws valid calls of every op, and takes ops that others bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.conformance.fake_backend import fake_registry, right, subject_of
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.checks.check import Admitted, Plan, Trial
from tinyllm.conformance.example import Example
from tinyllm.conformance.fuzz import fuzz, tried
from tinyllm.conformance.properties.random_calls import random_call
from tinyllm.conformance.properties.search import Draws, check_values, search
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import Runner
from tinyllm.conformance.subject import Subject
from tinyllm.errors import InvalidInputError
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import Kernel
from tinyllm.spec.attribute_checks import number
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def message(subject: Subject, seed: int = 0, examples: int = 200) -> str:
    return search(lambda draws: tried(subject, draws), "float32", Admitted(), subject.spec.name, seed, examples).message


def test_a_bug_in_a_corner_is_found_and_told_by_its_call() -> None:
    def wrong(x: Any, weight: Any, *, bias: Any = None) -> Any:
        y = right("linear")(x, weight, bias=bias)
        return y + 1 if bias is not None and x.ndim > 2 else y

    found = message(subject_of("linear", wrong))
    assert found == message(subject_of("linear", wrong))
    assert "linear[x" in found
    assert "bias" in found


def test_a_write_to_an_input_is_found() -> None:
    def careless(x: Any) -> Any:
        y = right("silu")(x)
        np.asarray(x)[...] = 0
        return y

    assert "wrote to its input x" in message(subject_of("silu", careless))


@pytest.mark.parametrize("op", CATALOGUE)
def test_most_calls_drawn_are_valid_and_they_are_many(op: str) -> None:
    valid: set[str] = set()
    refused = 0

    def look(draws: Draws) -> str:
        nonlocal refused
        inputs, attributes = random_call(draws, CATALOGUE[op])
        example = Example(CATALOGUE[op], "", "float32", inputs, attributes)
        try:
            check_values(example)
        except InvalidInputError:
            refused += 1
        else:
            valid.add(str({n: v.shape for n, v in inputs.items()}) + str(attributes))
        return ""

    search(look, "float32", Admitted(), op, 0, 100)
    assert len(valid) > 15
    assert refused < 60


@pytest.mark.parametrize("op", CATALOGUE)
def test_optional_inputs_attributes_and_empty_axes_are_all_drawn(op: str) -> None:
    spec = CATALOGUE[op]
    seen: set[str] = set()

    def look(draws: Draws) -> str:
        inputs, attributes = random_call(draws, spec)
        seen.update(inputs, attributes, ["empty"] if any(0 in v.shape for v in inputs.values()) else [])
        return ""

    search(look, "float32", Admitted(), op, 0, 200)
    named = {i.name for i in spec.inputs} | {a.name for a in spec.attributes}
    unlikely = {"mha": {"norm_eps"}}.get(op, set())
    assert named - unlikely <= seen
    assert "empty" in seen


def _half_reference(xp: Any, x: Any, weight: Any, *, share: float, bias: Any = None) -> Any:
    y = x * weight * share
    return y if bias is None else y + bias


HALF = OpSpec(
    name="half",
    summary="An op of somebody else.",
    formula="y = share x w + b",
    source="a test",
    inputs=(Input("x", "*B N"), Input("weight", "N"), Input("bias", "N", optional=True)),
    attributes=(Attribute("share", REQUIRED, number(above=0)),),
    outputs=(Output("y", "*B N"),),
    reference=_half_reference,
    flops=lambda call: 0,
    scale=lambda inputs, attributes, outputs: (
        np.abs(outputs) + np.abs(inputs.get("bias", 0)) + np.abs(inputs["x"] * inputs["weight"])
    ),
)


def test_an_op_that_others_bring_is_fuzzed_too() -> None:
    def half(x: Any, weight: Any, *, bias: Any = None, share: float) -> Any:
        y = x * weight * x.dtype.type(share)
        return y if bias is None else y + bias + x.dtype.type(x.shape[-1] == 3)

    made = fake_registry(Kernel("fake", "half", "mine", lambda: half), tinyllm_ops=hookimpl(lambda: [HALF]))
    plan = Plan("fake", tiers=("fuzz",))
    checks = list(fuzz(Trial(made, made.backend("fake"), made.spec("half"), plan)))
    assert [c.id for c in checks] == [f"fake/half:mine[fuzz,{d}]/fuzz" for d in ("f32", "bf16", "f16", "f64")]
    result = Runner(made, plan)(checks[0])
    assert result.outcome is Outcome.FAIL
    assert "half[x" in result.message
    assert "bias3" in result.message


def test_there_is_no_fuzz_outside_its_tier() -> None:
    made = fake_registry()
    assert not list(
        fuzz(Trial(made, made.backend("fake"), made.spec("softmax"), Plan("fake", tiers=("smoke", "full"))))
    )
