"""`tinyllm diff` and `tinyllm bisect` name the fault that is there, and none where there is none."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.conformance.planted import FAULTS, Planted
from tests.llm.families.harness import Tiny
from tinyllm.conformance.compared_model import ComparedModel, make_steps, open_compared
from tinyllm.conformance.model_bisect import Bisection
from tinyllm.conformance.model_diff import Reference, diff_programs, reference_of
from tinyllm.registry.registry import Registry

LLAMA = Tiny("Llama", {"attention_bias": True, "max_position_embeddings": 512, "num_hidden_layers": 3})
IDS = [int(i) for i in np.random.default_rng(2).integers(3, 97, 390)]
DECODE = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    path = tmp_path_factory.mktemp("llama")
    LLAMA.save(path)
    return path


def opened(folder: Path, backend: str, at: Registry | None = None) -> ComparedModel:
    """The model, its kernels from a registry."""
    at = at or registry()
    return open_compared(folder, at, at.select(backend))


@cache
def reference(folder: Path, backend: str = "numpy") -> Reference:
    """What a backend without faults gives."""
    model = opened(folder, backend)
    return reference_of(model, model.bind(registry().select(backend)), IDS, DECODE)


def planted(fault: str, backend: str) -> Planted:
    """A registry where the backend has the fault."""
    op, node, wrong = FAULTS[fault]
    return Planted(backend, op, wrong, node)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("fault", FAULTS)
def test_diff_names_the_node(folder: Path, backend: str, fault: str) -> None:
    """The first that is past its bound is the one with the fault, and no other is."""
    op, where, _ = FAULTS[fault]
    at = planted(fault, backend)
    model = opened(folder, backend, at)
    found = diff_programs(model, model.bind(at.select(backend)), reference(folder), make_steps(IDS, DECODE))
    names = {guilty.node.name for guilty in found.guilty}
    assert names and all(where in name for name in names)
    assert {guilty.node.op for guilty in found.guilty} == {op}


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("fault", FAULTS)
def test_bisect_names_the_node(folder: Path, backend: str, fault: str) -> None:
    op, where, _ = FAULTS[fault]
    at = planted(fault, backend)
    model = opened(folder, backend, at)
    other = next(name for name in backends() if name != backend)
    found = Bisection(model, backend, other, make_steps(IDS, DECODE)).run()
    assert found.nodes and all(where in name for name in found.nodes), found
    assert f"/{op}:" in found.kernel
    assert found.programs <= 12
