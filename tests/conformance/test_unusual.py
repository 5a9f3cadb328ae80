"""Kernels that are right in an unusual way pass: all aspects on the smoke cases, the outputs of all cases."""

from __future__ import annotations

import pytest

from tests.conformance.zoo.cage import first_caught
from tests.conformance.zoo.unusual import UNUSUAL

NOT_AT_RANDOM = (
    "squares of 16-bit numbers end in few bits, so that the errors of their sums, left to right, are no random walk: "
    "in bfloat16 the mean over 33 rows of 2,048 is -34 eps, the worst 46, where the bound's model has 6 * 5.5"
)

OPS = tuple(dict.fromkeys(kernel.op for kernel in UNUSUAL))


def test_there_are_many() -> None:
    assert len(UNUSUAL) >= 15
    assert len({(kernel.op, kernel.name) for kernel in UNUSUAL}) == len(UNUSUAL)


@pytest.mark.parametrize(
    ("tier", "aspects"), [("smoke", ()), ("full", ("values",)), ("model", ("values",))], ids=["smoke", "full", "model"]
)
@pytest.mark.parametrize("op", OPS)
def test_unusual_kernels_pass(op: str, tier: str, aspects: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    if (op, tier) == ("rms_norm", "model"):
        request.applymarker(pytest.mark.xfail(strict=True, reason=NOT_AT_RANDOM))
    kernels = [kernel for kernel in UNUSUAL if kernel.op == op]
    assert first_caught(kernels, right=True, tier=tier, aspects=aspects) == {}
