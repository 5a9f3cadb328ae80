"""`tinyllm diff` and `tinyllm bisect` name the fault that is there, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.conformance.planted import FAULTS, Planted
from tests.llm.families.harness import Tiny
from tinyllm.conformance.compared_model import ComparedModel, make_steps, open_compared, run_steps
from tinyllm.conformance.model_bisect import AGREE, Bisection
from tinyllm.conformance.model_diff import Reference, diff_programs, reference_of
from tinyllm.conformance.transformers_diff import diff_with_transformers
from tinyllm.errors import InvalidInputError
from tinyllm.models.decoder.decoder import decoder
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


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backend", backends())
def test_diff_names_the_node(folder: Path, backend: str, fault: str) -> None:
    """The first that is past its bound is the one with the fault, and no other is."""
    op, where, _ = FAULTS[fault]
    at = planted(fault, backend)
    model = opened(folder, backend, at)
    found = diff_programs(model, model.bind(at.select(backend)), reference(folder), make_steps(IDS, DECODE))
    names = {guilty.node.name for guilty in found.guilty}
    assert names and all(where in name for name in names)
    assert {guilty.node.op for guilty in found.guilty} == {op}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backend", backends())
def test_bisect_names_the_node(folder: Path, backend: str, fault: str) -> None:
    op, where, _ = FAULTS[fault]
    at = planted(fault, backend)
    model = opened(folder, backend, at)
    other = next(name for name in backends() if name != backend)
    found = Bisection(model, backend, other, make_steps(IDS, DECODE)).run()
    assert found.nodes and all(where in name for name in found.nodes), found
    assert f"/{op}:" in found.kernel
    assert found.programs <= 12


@pytest.mark.parametrize("backend", backends())
def test_bisect_names_a_kernel_that_is_wrong_everywhere(tmp_path: Path, backend: str) -> None:
    """No node of it makes half of the distance by itself; all of them do."""
    Tiny("Llama", LLAMA.config | {"num_hidden_layers": 8}).save(tmp_path)
    at = Planted(backend, "swiglu", lambda backend, right, *args, **kwargs: right(*args, **kwargs) * 1.02)
    model = opened(tmp_path, backend, at)
    other = next(name for name in backends() if name != backend)
    found = Bisection(model, backend, other, make_steps(IDS[:40], DECODE)).run()
    assert found.nodes == tuple(f"model.layers.{number}.mlp.swiglu" for number in range(8)), found
    assert "/swiglu:" in found.kernel and found.programs <= 12


@pytest.mark.slow
def test_a_fault_of_one_layer_is_found_in_the_real_model(smollm2_path: Path) -> None:
    backend, other = backends()[-1], backends()[0]
    at = Planted(backend, "swiglu", FAULTS["gate and up swapped"][2], "layers.17.")
    model = opened(smollm2_path, backend, at)
    steps = make_steps(model.opened.checkpoint.tokenizer().encode("Why is the sky blue? " * 5), 1)
    assert Bisection(model, backend, other, steps).run().nodes == ("model.layers.17.mlp.swiglu",)
    programs = [model.bind(at.select(name)) for name in (backend, other)]
    found = diff_programs(model, programs[0], programs[1], steps, lambda name: ".layers.17." in name)
    assert {guilty.node.name for guilty in found.guilty} == {"model.layers.17.mlp.swiglu"}


@pytest.mark.slow
def test_no_pair_of_backends_is_apart_in_the_real_model(smollm2_path: Path) -> None:
    """All of it, and every pair: bisect would end with nothing to find. Nodes are judged one by one in two layers, in
    `tests/cli/test_diff.py`."""
    model = opened(smollm2_path, backends()[-1])
    steps = make_steps(model.opened.checkpoint.tokenizer().encode("Why is the sky blue? " * 5), DECODE)
    programs = {name: model.bind(registry().select(name)) for name in backends()}
    logits = {name: np.concatenate(run_steps(program, steps)) for name, program in programs.items()}
    for one, other in combinations(logits, 2):
        apart = np.abs(logits[one] - logits[other]).max() / np.abs(logits[other]).max()
        assert 0 < apart <= AGREE / 10, (one, other, apart)


def test_bisect_looks_where_it_is_told_to(folder: Path) -> None:
    """A fault in a layer that stays on the right backend is not there to be found."""
    at = planted("eps", "numpy")
    model, other = opened(folder, "numpy", at), next(name for name in backends() if name != "numpy")
    bisection = Bisection(model, "numpy", other, make_steps(IDS, DECODE))
    assert bisection.run(lambda name: ".layers.2." in name).nodes == ()
    assert bisection.run(lambda name: ".layers.1." in name).nodes != ()


def test_what_is_no_number_is_told(folder: Path) -> None:
    at = Planted(
        "numpy", "swiglu", lambda backend, right, *args, **kwargs: right(*args, **kwargs) * np.nan, "layers.1."
    )
    model, other = opened(folder, "numpy", at), next(name for name in backends() if name != "numpy")
    steps = make_steps(IDS, DECODE)
    found = diff_programs(model, model.bind(at.select("numpy")), model.bind(at.select(other)), steps)
    assert "nan at" in found.guilty[0].message and max(node.difference for node in found.nodes) == float("inf")
    halved = Bisection(model, "numpy", other, steps).run()
    assert halved.distance == float("inf") and ["swiglu" in name for name in halved.nodes] == [True], halved


def test_graphs_that_differ_are_told_by_their_first_node(folder: Path, tmp_path: Path) -> None:
    Tiny("Llama", LLAMA.config | {"rms_norm_eps": 1e-3}).save(tmp_path)
    model = opened(tmp_path, "numpy")
    words = r"graphs differ at node \d+: model\.layers\.0\.rms_norm rms_norm\(eps=0\.001.* against .*eps=1e-06"
    with pytest.raises(InvalidInputError, match=words):
        diff_programs(model, model.bind(registry().select("numpy")), reference(folder), make_steps(IDS, DECODE))


def test_a_mistake_in_a_family_is_named_by_its_first_layer(folder: Path, tmp_path: Path) -> None:
    """Its layers are those of another config: from the second one on another norm, or another base of the rope."""
    model = opened(folder, "numpy")
    program = model.bind(registry().select("numpy"))
    assert [state for state in diff_with_transformers(model, program, IDS) if state.departs] == []
    layers = model.opened.config.layers
    rope = layers[0].attention.rope
    turned = replace(layers[1], attention=replace(layers[1].attention, rope=replace(rope, theta=500.0)))
    assert _departs(model, layers=(layers[0], turned, layers[2])) == "layer 1"
    assert _departs(model, layers=(layers[0], layers[1], turned)) == "final norm"
    assert _departs(model, embedding_multiplier=1.5) == "embedding"
    assert _departs(model, norm=replace(model.opened.config.norm, eps=0.1)) == "layer 0"
    assert _departs(model, logit_multiplier=1.01) == "logits"


def _departs(model: ComparedModel, **changed: Any) -> str:
    """The first state that departs of a model whose family says something else."""
    config = replace(model.opened.config, **changed)
    wrong = replace(model, opened=replace(model.opened, config=config), graph=decoder(config, registry().specs))
    states = diff_with_transformers(wrong, wrong.bind(registry().select("numpy")), IDS)
    first = next(state for state in states if state.departs)
    assert first.ours != first.theirs
    return first.what
