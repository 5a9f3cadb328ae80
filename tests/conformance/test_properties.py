"""Each property finds the kernel that it is there to find, lets the right one through, and finds the same at each run
of a seed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance.fake_backend import fake_registry, right, subject_of
from tests.conformance.wrong_kernels import WRONG, beside
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.checks.check import Admitted, DeclaredError, Plan, Trial
from tinyllm.conformance.checks.properties import properties
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.properties import PROPERTIES, properties_of
from tinyllm.conformance.properties.search import Property, search
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import Runner
from tinyllm.conformance.subject import Subject
from tinyllm.errors import TinyllmError, UnsupportedError
from tinyllm.plugins.kernel import Kernel

NEIGHBOURS = [op for op, spec in CATALOGUE.items() if any(p.name == "batch neighbours" for p in properties_of(spec))]
FLAT = ("paged_attention", "short_conv", "gated_delta")
"""Ops on tokens of several sequences, one after the other."""
EVERY = [p for spec in CATALOGUE.values() for p in properties_of(spec)]


def tried(subject: Subject, found: Property, *, seed: int = 0, examples: int = 30, dtype: str = "float32") -> Verdict:
    """A property on a kernel, as the check runs it."""
    return search(
        lambda draws: found.test(subject, draws), dtype, Admitted(), f"{found.op}/{found.name}/{dtype}", seed, examples
    )


def named(op: str, name: str) -> Property:
    return next(p for p in properties_of(CATALOGUE[op]) if p.name == name)


def test_every_property_has_a_wrong_kernel() -> None:
    assert {(p.op, p.name) for p in PROPERTIES} == set(WRONG)


def test_every_op_with_leading_axes_is_tried_for_its_neighbours() -> None:
    """Of the others the tokens of all sequences lie one after the other, or each goes where it likes."""
    assert set(CATALOGUE) - set(NEIGHBOURS) == {"kv_append", "moe_router", "moe_experts"}


@pytest.mark.parametrize(("op", "name"), WRONG, ids=lambda word: str(word).replace(" ", "-"))
def test_the_wrong_kernel_is_found(op: str, name: str) -> None:
    verdict = tried(subject_of(op, WRONG[op, name]), named(op, name))
    assert verdict.message
    assert "Error" not in verdict.message  # it gives something, and that is wrong
    assert f"{op}[" in verdict.message
    assert "float32]" in verdict.message


@pytest.mark.parametrize("op", NEIGHBOURS)
def test_what_leaks_from_a_neighbour_is_found(op: str) -> None:
    message = tried(subject_of(op, beside(op)), named(op, "batch neighbours")).message
    assert "error of" in message and (op in FLAT or message.startswith("the first of a batch beside"))


@pytest.mark.parametrize("found", EVERY, ids=lambda p: f"{p.op}-{p.name}".replace(" ", "-"))
def test_the_right_kernel_passes(found: Property) -> None:
    for dtype in found.dtypes:
        assert not tried(subject_of(found.op), found, seed=1, dtype=dtype, examples=8).message


def test_a_seed_tries_the_same_inputs_and_another_seed_others() -> None:
    def shapes(seed: int) -> list[Any]:
        seen = []

        def watch(x: Any, *, axis: int = -1) -> Any:
            seen.append((x.shape, x.tobytes()))
            return right("softmax")(x, axis=axis)

        tried(subject_of("softmax", watch), named("softmax", "rows sum to 1"), seed=seed)
        return seen

    assert shapes(3) == shapes(3)
    assert shapes(3) != shapes(4)


def test_the_message_is_the_same_at_each_run_and_names_small_shapes() -> None:
    wrong, found = subject_of("softmax", WRONG["softmax", "rows sum to 1"]), named("softmax", "rows sum to 1")
    first, second = (tried(wrong, found).message for _ in range(2))
    assert first == second
    assert "\n" not in first
    assert first.endswith("with softmax[x2x3x4,float32]")


def test_nothing_is_written_to_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tried(subject_of("softmax", WRONG["softmax", "rows sum to 1"]), named("softmax", "rows sum to 1"))
    assert not list(tmp_path.iterdir())


def test_a_kernel_that_declines_every_input_is_unsupported() -> None:
    subject = subject_of("softmax", right("softmax"), supports=lambda call: "never does it")
    with pytest.raises(DeclaredError, match="never does it"):
        tried(subject, named("softmax", "rows sum to 1"))


def test_inputs_that_are_declined_are_left_out() -> None:
    def narrow(x: Any, *, axis: int = -1) -> Any:
        if x.shape[-1] > 2:
            raise ValueError("a call that it declined")
        return right("softmax")(x, axis=axis)

    subject = subject_of("softmax", narrow, supports=lambda call: call.shape("x")[-1] <= 2 or "too long")
    assert tried(subject, named("softmax", "rows sum to 1")) == Verdict()


def test_a_kernel_that_raises_is_told_with_its_error_and_call() -> None:
    def raises(x: Any, *, axis: int = -1) -> Any:
        raise IndexError("out of range")

    assert (
        "IndexError: out of range; with softmax["
        in tried(subject_of("softmax", raises), named("softmax", "rows sum to 1")).message
    )


def test_a_kernel_that_says_so_only_when_it_runs_is_undeclared() -> None:
    def late(x: Any, *, axis: int = -1) -> Any:
        raise UnsupportedError("not this one")

    made = fake_registry(Kernel("fake", "softmax", "late", lambda: late))
    plan = Plan("fake")
    checks = list(properties(Trial(made, made.backend("fake"), made.spec("softmax"), plan)))
    assert [Runner(made, plan)(check).outcome for check in checks] == [Outcome.UNDECLARED] * len(checks)


def test_checks_are_named_by_kernel_property_and_dtype() -> None:
    made = fake_registry(Kernel("fake", "softmax", "mine", lambda: right("softmax")))

    def ids(**plan: Any) -> list[str]:
        return [c.id for c in properties(Trial(made, made.backend("fake"), made.spec("softmax"), Plan("fake", **plan)))]

    names = "batch neighbours", "rows sum to 1", "shift of a row"
    assert sorted(ids()) == [f"fake/softmax:mine[{name},f32]/property" for name in names]
    assert sorted(ids(tiers=("full",))) == [
        f"fake/softmax:mine[{name},{d}]/property" for name in names for d in ("bf16", "f32")
    ]
    assert sorted(ids(dtypes=("float16",))) == [f"fake/softmax:mine[{name},f16]/property" for name in names]
    assert ids(tiers=("model",)) == []


def test_without_hypothesis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(TinyllmError, match=r"pip install 'tinyllm\[conformance\]'"):
        tried(subject_of("softmax"), named("softmax", "rows sum to 1"))


def test_a_declared_wider_bound_admits_more() -> None:
    found = named("softmax", "rows sum to 1")
    subject = subject_of("softmax", lambda x, *, axis=-1: right("softmax")(x, axis=axis) * np.float32(1 + 2e-5))
    assert tried(subject, found).message
    assert not search(lambda draws: found.test(subject, draws), "float32", Admitted(100.0), "wide", 0, 40).message
