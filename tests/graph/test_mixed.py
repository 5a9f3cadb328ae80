"""Programs whose nodes are spread over backends: by op, by patterns of node names, at random; copies join them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.catalogue.harness import backends
from tests.graph.test_program import IDS, QUANTIZED, TOLERANCE, logits, made, program
from tests.graph.tiny import CONFIG, LAYER, forward
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.graph.program import Program
from tinyllm.models.decoder.config import MoeConfig
from tinyllm.plugins.backend import BoundNode

CONFIGS = {
    "dense": CONFIG,
    "tied": replace(CONFIG, tie_word_embeddings=True),
    "mixture": replace(CONFIG, layers=(LAYER, replace(LAYER, mlp=MoeConfig(24, 5, 2)))),
}
TENSORS = {name: made(config, QUANTIZED if name != "mixture" else ("o_proj",)) for name, config in CONFIGS.items()}
two_backends = pytest.mark.skipif("torch" not in backends(), reason="needs a second backend")


@cache
def alone(config: str, backend: str) -> Program:
    """A tiny model on one backend."""
    return program(backend, CONFIGS[config], TENSORS[config])


@cache
def judged(config: str) -> np.ndarray:
    """Its logits, as the first backend alone gives them."""
    return logits(alone(config, "numpy"), IDS, [])


def named(node: BoundNode) -> str:
    """A pattern that fits this node alone: a name without a dot would be an op's."""
    return node.name if "." in node.name else f"{node.name[:-1]}?"


def place_of(node: BoundNode) -> str:
    """What shares a backend: nodes of one cache, and otherwise each node by itself."""
    return node.name.rpartition(".")[0] if node.op in ("kv_append", "paged_attention") else node.name


@given(data=st.data(), config=st.sampled_from([*CONFIGS]), cut=st.integers(1, len(IDS) - 1))
@settings(max_examples=25, deadline=None)
def test_nodes_may_run_anywhere(data: st.DataObject, config: str, cut: int) -> None:
    """However they are spread, each runs where it was put, and the logits are those of each backend alone."""
    nodes = [node for node in alone(config, "numpy").nodes if node.call]
    where = {place: data.draw(st.sampled_from(backends())) for place in dict.fromkeys(map(place_of, nodes))}
    bound = program(",".join(f"{named(n)}={where[place_of(n)]}" for n in nodes), CONFIGS[config], TENSORS[config])
    assert {n.name: n.backend.name for n in bound.nodes if n.call} == {n.name: where[place_of(n)] for n in nodes}
    np.testing.assert_allclose(logits(bound, IDS, [cut]), judged(config), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("config", [*CONFIGS])
def test_each_backend_alone_agrees(config: str, backend: str) -> None:
    np.testing.assert_allclose(logits(alone(config, backend), IDS, []), judged(config), atol=TOLERANCE, rtol=0)


@two_backends
def test_a_layer_takes_its_cache_along() -> None:
    bound = program("model.layers.1.*=torch,*=numpy")
    where = {name: a.backend.name for name, a in bound._allocations.items()}
    assert set(where.values()) == {"numpy", "torch"}
    assert all((backend == "torch") == (".layers.1." in name) for name, backend in where.items())
    assert all((n.backend.name == "torch") == (".layers.1." in n.name) for n in bound.nodes if n.call)
    np.testing.assert_allclose(logits(bound, IDS, [4], 4), forward(CONFIG, made(), IDS), atol=TOLERANCE, rtol=0)


@two_backends
def test_copies_are_nodes_that_say_what_they_move() -> None:
    """One for each value and place where it is needed, with the type that the graph says."""
    bound = program("model.layers.1.*=torch,*=numpy")
    copies = [node for node in bound.nodes if node.op == "copy"]
    assert len({node.targets for node in copies}) == len(copies) > 0
    made_there = {target: n for n in bound.nodes if n.call for target in n.targets}
    moved = [(node, made_there[node.sources[0]]) for node in copies if node.sources[0] in made_there]
    assert moved and all(node.types[0] in maker.types for node, maker in moved)
    assert {node.name.split(" ")[1] for node, _ in moved} == {"numpy:cpu->torch:cpu", "torch:cpu->numpy:cpu"}


@two_backends
def test_backends_mix_per_op() -> None:
    """Ops on two backends are joined by explicit copies and give the same."""
    bound = program("linear=torch,rms_norm=torch,*=numpy")
    assert any(s.op == "copy" for s in bound.steps)
    assert {i.partition("/")[0] for i in bound.report.kernels.values()} == {"numpy", "torch"}
    np.testing.assert_allclose(logits(bound, IDS, [4]), forward(CONFIG, made(), IDS), atol=TOLERANCE, rtol=0)


@two_backends
def test_an_op_is_chosen_however_its_weights_are_stored() -> None:
    """`linear=torch` runs every product on torch, that with the quantized weights and that with the dense head."""
    bound = program("linear=torch,*=numpy", tensors=made(quantized=("_proj.weight",)))
    on_torch = {name for name, kernel in bound.report.kernels.items() if kernel.startswith("torch/")}
    assert on_torch == {name for name, kernel in bound.report.kernels.items() if "/linear:" in kernel}
    assert len(on_torch) == 4 * CONFIG.num_layers + 1


def test_a_choice_of_what_the_model_does_not_have_is_refused() -> None:
    """A choice that would do nothing is an error, not a shrug."""
    with pytest.raises(InvalidInputError, match=r"test: gelu: expected an op of this model .*linear"):
        program("gelu=numpy,*=numpy")
    words = (
        r"^test: model\.layer\.1\.\*: expected nodes of this model \(the nearest are model\.layers\.1\.add, "
        r"[^)]*model\.layers\.1\.[^)]*\), got a pattern that fits none$"
    )
    with pytest.raises(InvalidInputError, match=words):
        program("*.mlp.*=numpy,model.layer.1.*=numpy,*=numpy")


@two_backends
@pytest.mark.parametrize("selection", ["kv_append=torch,*=numpy", "*.0.*.kv_append=torch,*=numpy"])
def test_pages_stay_on_one_backend(selection: str) -> None:
    """kv_append writes what paged_attention reads."""
    words = r"layers\.0.*must share a backend, got .*\.kv_append on torch:cpu, .*\.paged_attention on numpy:cpu"
    with pytest.raises(UnsupportedError, match=words):
        program(selection)
