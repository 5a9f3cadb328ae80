"""Whole models on what third parties bring: their backend talks, their kernel serves somebody else's backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tinyllm.graph.compose import compose

from tests.catalogue.harness import available
from tests.graph.tiny import CONFIG, Tensors, forward
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.step_batch import Chunk, make_step
from tinyllm.graph.program import Program
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import parse_selection

Install = Callable[..., Registry]
IDS = [4, 11, 60, 2, 2, 35]
QUICK_ON = [
    pytest.param(b, marks=pytest.mark.skipif(not available(b), reason=f"{b} is not here")) for b in ("numpy", "torch")
]


def bound(registry: Registry, backend: str, tensors: Tensors) -> Program:
    """The tiny model on a backend of this registry."""
    return compose(decoder(CONFIG, registry.specs), registry, parse_selection(backend, "test"), tensors)


def logits(program: Program) -> np.ndarray:
    """Prefill of four tokens, then two decode steps; the logits of every position."""
    runner = ModelRunner(program, 1, 8)
    steps = [(IDS[:4], 0), (IDS[4:5], 4), (IDS[5:], 5)]
    return np.concatenate([runner.step(make_step([Chunk(ids, at, [0], len(ids))], 8)) for ids, at in steps])


def test_a_backend_by_reference_runs_a_model(install: Install) -> None:
    """Without one kernel for a model's ops, tokens come out right."""
    tensors = Tensors(decoder(CONFIG, install().specs).tensors())
    program = bound(install("strict_backend"), "strict", tensors)
    assert all(
        kernel.startswith("strict/") and kernel.endswith(":reference") for kernel in program.report.kernels.values()
    )
    np.testing.assert_allclose(logits(program), forward(CONFIG, tensors, IDS), atol=2e-4, rtol=0)


@pytest.mark.parametrize("backend", QUICK_ON)
def test_a_strangers_kernel_serves_a_model(backend: str, install: Install) -> None:
    """All quantized products run on it, each weight packed by its own `prepare`, and the tokens are the same."""
    registry = install("quick_linear")
    tensors = Tensors(decoder(CONFIG, registry.specs).tensors(), quantized=("_proj.weight",))
    program = bound(registry, backend, tensors)
    products = [k for n, k in program.report.kernels.items() if "/quantized_linear:" in k]
    assert products and set(products) == {f"{backend}/quantized_linear:quick"}
    np.testing.assert_allclose(logits(program), forward(CONFIG, tensors, IDS), atol=2e-4, rtol=0)
