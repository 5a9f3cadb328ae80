"""A graph that is cut into stages computes the same bits as the whole one: here the stages run one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.graph.test_tensor_parallel import CONFIGS, IDS
from tests.graph.tiny import CONFIG, LAYER, Tensors
from tinyllm.engine.model_runner import Chunk, make_step
from tinyllm.errors import InvalidInputError, UnknownNameError, UnsupportedError
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import Graph, GraphBuilder
from tinyllm.graph.passes.pipeline import Stage, layer_ranges, pipeline
from tinyllm.graph.program import Program
from tinyllm.graph.weight_share import bytes_by_weight
from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, LayerInputConfig, MlpConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.selection import parse_selection

SHARING = LayerConfig(replace(LAYER.attention, kv_layer=0), MlpConfig(96))
DEEP: dict[str, DecoderConfig] = {
    "tied": replace(CONFIG, layers=(LAYER,) * 4, tie_word_embeddings=True),
    "layers that read the pages of others": replace(CONFIG, layers=(LAYER, LAYER, SHARING, SHARING)),
    "an input for each layer": replace(CONFIG, layers=(LAYER,) * 4, layer_input=LayerInputConfig(6, "silu", 2.0, 0.5)),
}
HEAD = "lm_head.weight"


def step_inputs(start: int, end: int) -> dict[str, np.ndarray]:
    """Of some tokens of one sequence."""
    batch = make_step([Chunk(IDS[start:end], start, [1], end - start)], 16)
    inputs = {name: getattr(batch, name) for name in vars(batch)}
    return inputs | {name: inputs[name][:, None] for name in ("positions", "lengths")}


def run(programs: list[tuple[Program, Stage]]) -> np.ndarray:
    """Logits of two steps through all stages."""
    pages = [program.allocate(2, 16) for program, _ in programs]
    given = []
    for start, end in ((0, 4), (4, len(IDS))):
        inputs, values = step_inputs(start, end), dict[str, Any]()
        for number, (program, stage) in enumerate(programs):
            assert {*stage.received} == values.keys()
            outputs, pages[number] = program({**inputs, **values}, pages[number])
            made = dict(zip(stage.graph.outputs, outputs, strict=True))
            values = {name: made[name] if name in made else values[name] for name in stage.sent}
        given += values.values()
    return np.concatenate(given)


def cut(graph: Graph, tensors: Tensors, stages: int) -> list[Stage]:
    """The stages of a graph."""
    return pipeline(graph, layer_ranges(graph, bytes_by_weight(graph, tensors), stages))


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize(("name", "stages"), [*((name, 2) for name in CONFIGS), *((name, 3) for name in DEEP)])
def test_stages_compute_the_bits_of_the_whole_and_read_their_own_weights(name: str, stages: int, backend: str) -> None:
    graph = decoder((CONFIGS | DEEP)[name], registry().specs)
    selection = parse_selection(backend, "test")
    tensors = Tensors(graph.tensors(), 1)
    all_of_it = cut(graph, tensors, 1)[0]
    assert all_of_it.graph == graph
    whole = run([(bind(graph, registry(), selection, tensors), all_of_it)])
    programs = []
    for stage in cut(graph, tensors, stages):
        tensors.reads.clear()
        programs.append((bind(stage.graph, registry(), selection, tensors, whole=graph), stage))
        layers = [int(read.split(".")[2]) for read in tensors.reads if read.startswith("model.layers.")]
        assert {*layers} == {*stage.layers}
    np.testing.assert_array_equal(run(programs), whole)


@pytest.mark.parametrize("name", [*CONFIGS, *DEEP])
def test_one_value_crosses_where_nothing_else_is_shared(name: str) -> None:
    graph = decoder((CONFIGS | DEEP)[name], registry().specs)
    stages = cut(graph, Tensors(graph.tensors()), 2)
    crossing = {"layers that read the pages of others": 3, "an input for each layer": 3}.get(name, 1)
    assert [len(stage.received) for stage in stages] == [0, crossing]
    assert stages[0].sent == stages[1].received and stages[1].sent == graph.outputs
    states = [{*stage.graph.states} for stage in stages]
    assert states[0] | states[1] == {*graph.states}
    both = {"model.layers.0.self_attn.k", "model.layers.0.self_attn.v"} if "pages of others" in name else set()
    assert states[0] & states[1] == both


def test_ranges_are_balanced_by_the_bytes_of_weights() -> None:
    graph = decoder(replace(CONFIG, layers=(LAYER,) * 8), registry().specs)
    layer = dict.fromkeys(graph.weights, 0) | {f"model.layers.{n}.self_attn.q_proj.weight": 10 for n in range(8)}
    assert layer_ranges(graph, layer, 2) == [range(4), range(4, 8)]
    assert layer_ranges(graph, layer | {"model.embed_tokens.weight": 40}, 2) == [range(2), range(2, 8)]
    assert layer_ranges(graph, layer | {HEAD: 20}, 2) == [range(5), range(5, 8)]
    uneven = layer_ranges(graph, layer | {"model.layers.0.self_attn.q_proj.weight": 80}, 3)
    assert uneven[0] == range(1)
    tied = decoder(replace(CONFIG, layers=(LAYER,) * 8, tie_word_embeddings=True), registry().specs)
    sizes = {name: layer.get(name, 0) for name in tied.weights} | {"model.embed_tokens.weight": 20}
    assert layer_ranges(tied, sizes, 4) == [range(1), range(1, 4), range(4, 7), range(7, 8)]


def bare(build: Callable[[GraphBuilder], Any]) -> Graph:
    """A graph of a few nodes, of which a step's tokens are the only input."""
    g = GraphBuilder(registry().specs, "float32")
    return g.build(build(g))


def backwards(g: GraphBuilder) -> Any:
    """Layer 0 reads what layer 1 makes."""
    x = g.embedding(g.input("tokens", ("T",)), g.weight("embed", (5, 4)))
    for number in (1, 0):
        with g.scope(f"model.layers.{number}"):
            x = g.silu(x)
    return x


def one_state(g: GraphBuilder, update: bool) -> Any:
    """Layer 1 reads the state that a product in layer 0 gives, or the state itself."""
    state, tokens = g.state("s", (4,)), g.input("tokens", ("T",))
    with g.scope("model.layers.0"):
        x = g.embedding(tokens, g.weight("embed", (5, 4)))
        new = g.linear(state, g.weight("w", (4, 4)))
        g.update(state, new)
    with g.scope("model.layers.1"):
        return g.add(x, g.embedding(tokens, new if update else state))


ERRORS: dict[str, tuple[Callable[[], Graph], int, type[Exception], str]] = {
    "layers": (
        lambda: decoder(CONFIG, registry().specs),
        3,
        InvalidInputError,
        "pipeline_parallel: expected at most 2, as many as the model has layers, got 3",
    ),
    "backwards": (lambda: bare(backwards), 2, UnsupportedError, "layers.0.silu: reads what a later layer makes"),
    "an update with weights": (
        lambda: bare(lambda g: one_state(g, True)),
        2,
        UnsupportedError,
        "layers.0.linear: a later stage reads the state that it updates, and would need its weights",
    ),
    "a state of two": (
        lambda: bare(lambda g: one_state(g, False)),
        2,
        UnsupportedError,
        "state s: one stage reads it, another updates it",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_cut_is_named(case: str) -> None:
    make, stages, kind, message = ERRORS[case]
    graph = make()
    with pytest.raises(kind, match=message):
        pipeline(graph, layer_ranges(graph, dict.fromkeys(graph.weights, 1), stages))


def test_a_selection_may_name_nodes_of_other_stages() -> None:
    graph = decoder(CONFIG, registry().specs)
    tensors = Tensors(graph.tensors())
    selection = parse_selection("model.layers.1.*=numpy,*=native", "test")
    first, second = cut(graph, tensors, 2)
    one = bind(first.graph, registry(), selection, tensors, whole=graph)
    two = bind(second.graph, registry(), selection, tensors, whole=graph)
    assert {node.backend.name for node in one.nodes} == {"native"}
    assert {node.backend.name for node in two.nodes} == {"native", "numpy"}
    with pytest.raises((InvalidInputError, UnknownNameError), match=r"layers.2.\*"):
        bind(first.graph, registry(), parse_selection("model.layers.2.*=numpy,*=native", "test"), tensors, whole=graph)
