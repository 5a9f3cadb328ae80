"""Every id that a report prints can be run again."""

from __future__ import annotations

import pytest

from tests.catalogue.harness import backends, registry
from tinyllm.conformance.checks.check import TIERS, Plan
from tinyllm.conformance.collect import ASPECTS, collect, trials

SCHEMES = ("affine", "q4_k")
OPS = list(registry().specs)


def ids(backend: str, op: str, tiers: tuple[str, ...], case: str = "") -> set[str]:
    """Of all checks of an op; `case`: as if one were asked for by its id, before it is looked for."""
    (trial,) = trials(registry(), Plan(backend, tiers, (op,), schemes=SCHEMES, case=case))
    return {check.id for aspect in ASPECTS.values() for check in aspect(trial)}


@pytest.mark.parametrize(("op", "backend"), [*((op, "numpy") for op in OPS), *(("linear", b) for b in backends()[1:])])
def test_every_id_of_every_tier_is_known_to_a_rerun(op: str, backend: str) -> None:
    known = ids(backend, op, TIERS, "any")
    for tier in TIERS:
        assert ids(backend, op, (tier,)) - known == set()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("op", ["softmax", "kv_append"])
def test_an_id_finds_its_check_alone(op: str, tier: str) -> None:
    """One id of each aspect, as a report prints it and without backend and kernel."""
    (trial,) = trials(registry(), Plan("numpy", (tier,), (op,), schemes=SCHEMES))
    checks = {check.aspect: check for aspect in ASPECTS.values() for check in aspect(trial)}
    for check in checks.values():
        for name in (check.id, check.id.replace(check.id.partition("[")[0], op)):
            found = collect(registry(), Plan("numpy", TIERS, (op,), case=name))
            assert check.id in {c.id for c in found}
            assert {c.aspect for c in found} == {check.aspect}
