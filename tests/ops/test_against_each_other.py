"""mlx against torch, default kernels, without the reference between them."""

from __future__ import annotations

import pytest

from tests.ops.compare import wrong
from tests.ops.harness import Example, available, bound, cases_of, example, registry, run

pytestmark = pytest.mark.skipif(not (available("mlx") and available("torch")), reason="needs mlx and torch")


def _outputs(tested: Example, name: str) -> tuple[object, ...]:
    backend = registry().backend(name)
    return run(tested, backend, registry().choose(bound(tested.call, backend), backend).kernel, tested.native(backend))


@pytest.mark.parametrize("op", list(registry().specs))
def test_mlx_agrees_with_torch(op: str) -> None:
    """Two implementations that share no line agree on every case."""
    for case in cases_of(registry().spec(op)):
        tested = example(op, case.id, "float32")
        message = wrong(tested, _outputs(tested, "mlx"), against=_outputs(tested, "torch"))
        assert not message, f"{op} [{case.id}]: mlx against torch: {message}"
