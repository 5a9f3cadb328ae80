"""Folding keeps everything, and what it takes for equal is equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.catalogue.harness import registry
from tests.graph.family_graphs import configs, graphs, of_layers
from tests.graph.tiny import tiny_config
from tinyllm.graph.graph import Graph, Node
from tinyllm.graph.tools.cards import short_name
from tinyllm.graph.tools.fold import Part, fold, unfold
from tinyllm.graph.tools.picture import ranges
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families import vision
from tinyllm.models.families.families import FAMILIES

GRAPHS = graphs()


def test_every_family_is_there() -> None:
    """Those that see have the graphs of those that read."""
    names = {family.name for family in FAMILIES} - {family.name for family in vision.FAMILIES}
    assert names <= {config.family for config in configs().values()}


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
def test_unfolding_gives_the_graph_back(name: str, equal: bool) -> None:
    graph = GRAPHS[name]
    found = list(unfold(fold(graph, equal)))
    assert len(found) == len(graph.nodes)
    assert {node.name: node for node in found} == {node.name: node for node in graph.nodes}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_a_block_stands_for_is_like_it(name: str) -> None:
    """Types, weights and states, what is read and given outside, and which state a value becomes."""
    graph = GRAPHS[name]
    folded = fold(graph)
    read_outside = {value for value, readers in folded.readers.items() if readers}
    for part in folded.parts:
        for names in part.names[1:]:
            for ours, theirs in names.items():
                if ours in {node.name for node in part.nodes} - graph.types.keys():
                    continue
                assert graph.type_of(ours) == graph.type_of(theirs)
                assert (ours in graph.weights, ours in graph.states) == (
                    theirs in graph.weights,
                    theirs in graph.states,
                )
                assert (ours in read_outside) == (theirs in read_outside)
            updated = {state: value for state, value in graph.updates.items() if state in names}
            assert all(graph.updates[names[state]] == names[value] for state, value in updated.items())
    blocks = [(part.scope, number) for part in folded.parts for number in part.numbers]
    assert len(set(blocks)) == len(blocks) and [number for _, number in sorted(blocks)] == list(range(len(blocks)))


@pytest.mark.parametrize(
    ("classes", "changes", "kinds"),
    [
        ("Llama", {}, [range(31), [31]]),
        ("Gemma3Text", {}, [[n for n in range(25) if n % 6 < 5], range(5, 26, 6), [25]]),
        ("Qwen3Next", {}, [[n for n in range(48) if n % 4 < 3], range(3, 47, 4), [47]]),
        ("Glm4Moe", {"head_dim": 64, "num_hidden_layers": 9, "first_k_dense_replace": 3}, [range(3), range(3, 8), [8]]),
        ("Lfm2", {"full_attn_idxs": [2, 5]}, [[n for n in range(31) if n not in (2, 5)], [2, 5], [31]]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_fold_into_their_kinds(classes: str, changes: dict[str, object], kinds: list[list[int]]) -> None:
    """The last layer is one of its own, as only rows whose logits are asked for go through all of it."""
    folded = fold(of_layers(classes, **changes))
    assert [list(part.numbers) for part in folded.parts if part.numbers] == [list(kind) for kind in kinds]


def _changed(graph: Graph, name: str, change: Callable[[Node], Node]) -> Graph:
    return replace(graph, nodes=tuple(change(node) if node.name == name else node for node in graph.nodes))


def _reading(node: Node, **inputs: str) -> Node:
    return replace(node, inputs={**node.inputs, **inputs})


def _plain() -> Graph:
    """Of six equal layers."""
    config = tiny_config()
    return decoder(replace(config, layers=config.layers[:1] * 6), registry().specs)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rms_norm", lambda node: replace(node, attributes=node.attributes | {"eps": 0.5})),
        ("mlp.swiglu", lambda node: replace(node, op="geglu")),
        ("add", lambda node: _reading(node, x=node.inputs["y"], y=node.inputs["x"])),
        ("rms_norm", lambda node: _reading(node, x="embedding")),
        ("self_attn.kv_append", lambda node: _reading(node, slots="tokens")),
        ("mlp.up_proj.linear", lambda node: _reading(node, weight="model.layers.2.mlp.gate_proj.weight")),
        ("mlp.up_proj.linear", lambda node: _reading(node, weight="model.layers.1.mlp.up_proj.weight")),
        ("mlp.down_proj.linear", lambda node: _reading(node, x="model.layers.2.mlp.gate_proj.linear")),
        ("self_attn.rope_rotate", lambda node: _reading(node, cos="rope_angles:1", sin="rope_angles:0")),
    ],
    ids=["attribute", "op", "order", "source", "input", "same-weight", "other-weight", "inside", "shared"],
)
def test_a_layer_that_differs_is_kept_apart(name: str, change: Callable[[Node], Node]) -> None:
    assert [part.numbers for part in fold(_plain()).parts if part.numbers] == [(0, 1, 2, 3, 4), (5,)]
    odd = _changed(_plain(), f"model.layers.2.{name}", change)
    kinds = [part.numbers for part in fold(odd).parts if part.numbers]
    assert not any({2, 3} <= {*numbers} for numbers in kinds)
    assert {node.name: node for node in unfold(fold(odd))} == {node.name: node for node in odd.nodes}


def test_a_layer_whose_state_type_or_readers_differ_stands_alone() -> None:
    graph = _plain()
    state = graph.states["model.layers.2.self_attn.k"]
    other = replace(graph, states={**graph.states, state.name: replace(state, dtype="float16")})
    weight = graph.weights["model.layers.2.input_layernorm.weight"]
    wider = replace(graph, weights={**graph.weights, weight.name: replace(weight, dtype="float64")})
    swapped = replace(graph, updates={**graph.updates, state.name: "model.layers.2.self_attn.kv_append:1"})
    inner = "model.layers.2.mlp.swiglu"
    typed = replace(graph, types={**graph.types, inner: replace(graph.types[inner], dtype="float16")})
    read = _changed(graph, "rms_norm", lambda node: _reading(node, x=inner))
    for odd in (other, wider, swapped, typed, read):
        assert (2,) in [part.numbers for part in fold(odd).parts]


def test_names_make_no_difference() -> None:
    """Layers whose weights, states and values have other names fold as they did."""
    graph = _plain()
    names = {node.name: node.name.replace("mlp", "ffn") for node in graph.nodes if ".1." in node.name}
    names |= {name: f"other {name}" for name in (*graph.weights, *graph.states) if ".1." in name}
    odd = replace(
        graph,
        nodes=tuple(
            replace(
                node,
                name=names.get(node.name, node.name),
                inputs={name: names.get(value, value) for name, value in node.inputs.items()},
                outputs=tuple(names.get(value, value) for value in node.outputs),
            )
            for node in graph.nodes
        ),
        weights={names.get(name, name): replace(w, name=names.get(name, name)) for name, w in graph.weights.items()},
        states={names.get(name, name): replace(s, name=names.get(name, name)) for name, s in graph.states.items()},
        types={names.get(name, name): kind for name, kind in graph.types.items()},
        updates={names.get(name, name): value for name, value in graph.updates.items()},
    )
    assert odd.nodes != graph.nodes
    assert [p.numbers for p in fold(odd).parts] == [p.numbers for p in fold(graph).parts]


def test_short_names() -> None:
    part = Part((), "model.layers", (0,))
    merged = "+".join(f"model.layers.0.attn.{name}_proj.linear" for name in "qkv")
    assert short_name(merged, part) == "attn.(q_proj+k_proj+v_proj).linear"
    assert short_name(merged + ".split_heads", part) == "attn.(q_proj+k_proj+v_proj).linear.split_heads"
    assert short_name("model.layers.0.add_2", part) == "add_2"
    assert short_name("logits", Part(())) == "logits"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "3"), ([0, 1, 2], "0-2"), ([0, 2, 3], "0, 2-3"), ([*range(0, 18, 2), 20, 21], "0, 2, 4 .. 20-21")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
