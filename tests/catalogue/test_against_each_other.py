"""mlx against torch, default kernels, without the reference between them."""

from __future__ import annotations

import pytest

from tests.catalogue.harness import available, cases_of, chosen, example, registry
from tinyllm.conformance.judge import judge

pytestmark = pytest.mark.skipif(not (available("mlx") and available("torch")), reason="needs mlx and torch")


@pytest.mark.parametrize("op", list(registry().specs))
def test_mlx_agrees_with_torch(op: str) -> None:
    """Two implementations that share no line agree on every case."""
    for case in cases_of(registry().spec(op)):
        tested = example(op, case.id, "float32")
        mlx, torch = (chosen(tested, registry().backend(name))(tested) for name in ("mlx", "torch"))
        verdict = judge(tested, mlx, against=torch)
        assert not verdict.message, f"{op} [{case.id}]: mlx against torch: {verdict.message}"
