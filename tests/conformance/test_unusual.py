"""Kernels that are right in an unusual way pass: all aspects on the smoke cases, the outputs of all cases."""

from __future__ import annotations

import pytest

from tests.conformance.zoo.cage import first_caught
from tests.conformance.zoo.unusual import UNUSUAL

OPS = tuple(dict.fromkeys(kernel.op for kernel in UNUSUAL))
VALUES = ("values",)


def test_there_are_many() -> None:
    assert len(UNUSUAL) >= 15
    assert len({(kernel.op, kernel.name) for kernel in UNUSUAL}) == len(UNUSUAL)


@pytest.mark.parametrize(("tier", "aspects"), [("smoke", ()), ("full", VALUES), ("model", VALUES)])
@pytest.mark.parametrize("op", OPS)
def test_unusual_kernels_pass(op: str, tier: str, aspects: tuple[str, ...]) -> None:
    kernels = [kernel for kernel in UNUSUAL if kernel.op == op]
    assert {*first_caught(kernels, True, tier, aspects)} == set()
