"""What a plan adds up is what binding a model takes, and what its steps are given."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalogue.harness import backends, registry
from tests.graph.tiny import FOUR_BITS, Tensors, tiny_config
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.errors import UnsupportedError
from tinyllm.graph.bind import bind, choose
from tinyllm.graph.graph import Graph, GraphBuilder
from tinyllm.graph.tools.cost import Cost, Sizes, call_cost, node_cost, step_sizes, type_bytes
from tinyllm.graph.tools.plan import (
    StatedTypes,
    held_weights,
    node_costs,
    parameters,
    quantized,
    state_bytes,
    value_bytes,
)
from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    LayerConfig,
    MlpConfig,
    MoeConfig,
    RopeConfig,
    ShortConvConfig,
)
from tinyllm.models.decoder.decoder import decoder
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call

SPECS = registry().specs


def graph_of(config: DecoderConfig | None = None) -> Graph:
    return decoder(config or tiny_config(), SPECS)


def types_of(graph: Graph) -> dict[str, ArrayType | QuantType]:
    return {name: ArrayType(weight.shape, "float32") for name, weight in graph.weights.items()}


def chosen(graph: Graph, types: Any, backend: str = "numpy") -> Any:
    return choose(graph, registry(), registry().select(backend), StatedTypes(types))


@pytest.mark.parametrize("backend", backends())
def test_held_weights_are_those_that_binding_gives_to_kernels(backend: str) -> None:
    """In the form in which each reads them: what no kernel takes as it is counts as the floats that it becomes."""
    graph = graph_of()
    tensors = Tensors(graph.tensors(), quantized=("proj.weight", "embed"))
    types = {name: tensors.info(name).type for name in graph.weights}
    held = held_weights(*chosen(graph, types, backend))
    report = bind(graph, registry(), registry().select(backend), tensors).report
    numbers = sum(prod(weight.shape) for weight in graph.weights.values())
    read = sum(array.nbytes for array in tensors.arrays.values())
    more = sum(after - before for before, after in report.expanded.values())
    assert sum(kind.numbers for kind in held.values()) >= numbers
    assert sum(kind.bytes for kind in held.values()) >= read + more - numbers // 8, "scales are of 16 bits, or of 32"
    assert (str(FOUR_BITS) in held) or report.expanded
    if not report.expanded and not report.second_copies:
        assert held.keys() == {"float32", str(FOUR_BITS)}
        assert sum(kind.numbers for kind in held.values()) == numbers


def test_a_tied_matrix_is_held_once() -> None:
    graph = graph_of()
    tied = decoder(DecoderConfig(**vars(tiny_config()) | {"tie_word_embeddings": True}), SPECS)
    matrix = 61 * 64
    assert parameters(graph).total - parameters(tied).total == matrix
    held = [held_weights(*chosen(g, types_of(g)))["float32"] for g in (graph, tied)]
    assert held[0].bytes - held[1].bytes == 4 * matrix


def test_all_matrices_that_groups_divide_are_quantized_and_nothing_else() -> None:
    graph = graph_of()
    types = quantized(graph, SPECS, types_of(graph), FOUR_BITS)
    for name, kind in types.items():
        matrix = len(kind.shape) == 2
        assert isinstance(kind, QuantType) == (matrix and kind.shape[-1] % 32 == 0), name
    odd = graph_of(tiny_config(inner_size=40))
    kept = {
        name for name, kind in quantized(odd, SPECS, types_of(odd), FOUR_BITS).items() if isinstance(kind, ArrayType)
    }
    assert {name for name in kept if "down_proj" in name} == {f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)}
    assert type_bytes(QuantType((64, 64), FOUR_BITS)) == 64 * 64 * 5 // 8


def test_experts_count_as_often_as_a_token_names_them() -> None:
    """What balances their load is no parameter."""
    layer = LayerConfig(tiny_config().layers[0].attention, MoeConfig(24, 8, 3, correction_bias=True, expert_bias=True))
    counted = parameters(graph_of(DecoderConfig("llama", 61, 64, 128, (layer,))))
    expert = 3 * 24 * 64 + 24 + 24 + 64
    assert counted.total - counted.active == (8 - 3) * expert
    plain = LayerConfig(layer.attention, MoeConfig(24, 8, 3, expert_bias=True))
    assert parameters(graph_of(DecoderConfig("llama", 61, 64, 128, (plain,)))) == counted


@pytest.mark.parametrize("kind", ["attention", "window", "recurrent"])
def test_states_take_what_the_engine_allocates(kind: str) -> None:
    """Windowed layers keep all tokens, and recurrent ones a row for each sequence."""
    attention = AttentionConfig(4, 2, 16, RopeConfig(16), window=4 if kind == "window" else None)
    first = LayerConfig(ShortConvConfig(3) if kind == "recurrent" else attention, MlpConfig(32))
    graph = graph_of(DecoderConfig("llama", 61, 64, 128, (first, LayerConfig(attention, MlpConfig(32)))))
    program = bind(graph, registry(), registry().select("numpy"), Tensors(graph.tensors()))
    pages, size, rows = 5, 8, 3
    allocated = sum(np.asarray(array).nbytes for array in program.allocate(pages, size, rows).values())
    by_token, by_sequence = state_bytes(graph.states.values())
    assert allocated == pages * size * by_token + rows * by_sequence
    assert bool(by_sequence) == (kind == "recurrent")


def test_a_products_cost_grows_with_its_rows_and_weights() -> None:
    graph = graph_of()
    small, large = (node_costs(*chosen(graph, types_of(graph)), step_sizes(*sizes)) for sizes in ((1, 9), (5, 9, 2)))
    for one, many in zip(small, large, strict=True):
        if one.op == "linear":
            head = one.name == "logits" or one.name == "lm_head"
            last = one.name.startswith("model.layers.1") and not any(
                p in one.name for p in ("q_proj", "k_proj", "v_proj")
            )
            rows = 2 if head or last else 10
            assert (one.rows, many.rows) == (1, rows), one.name
            assert many.flops == rows * one.flops and one.bytes < many.bytes
    read = sum(type_bytes(kind) for kind in types_of(graph).values())
    assert sum(cost.bytes for cost in small) > read - 4 * 61 * 64, "all but the rows of the embedding that are not read"
    packed = quantized(graph, SPECS, types_of(graph), FOUR_BITS)
    fewer = node_costs(*chosen(graph, packed, "native"), step_sizes(1, 9)) if "native" in backends() else []
    assert sum(c.bytes for c in fewer) < sum(c.bytes for c in small)
    assert {str(c.scheme) for c in fewer if c.op == "linear"} <= {"affine4/32"}


BOUND = bind(graph_of(), registry(), registry().select("numpy"), Tensors(graph_of().tensors()))
CHOSEN = chosen(graph_of(), types_of(graph_of()))


def test_nodes_are_those_of_a_step() -> None:
    """In their order, on the same kernels."""
    costs, seen = node_costs(*CHOSEN, step_sizes(2, 2)), []
    ModelRunner(BOUND, 2, 1).step(make_step([Chunk([3, 4], 0, [0, 1])], 1), lambda ran: seen.append(ran.node))
    ran = [(node.name, node.kernel) for node in seen if node.call is not None]  # the others are copies from the host
    assert ran == [(cost.name, cost.kernel) for cost in costs]


@given(tokens=st.integers(1, 300), cached=st.integers(0, 300), sequences=st.integers(1, 5))
def test_a_plan_counts_what_a_trace_counts(tokens: int, cached: int, sequences: int) -> None:
    """Of each node, before binding and after it; and keys alike, whatever pages they lie in."""
    sizes = step_sizes(tokens, tokens + cached, sequences)
    planned = {cost.name: Cost(cost.flops, cost.bytes) for cost in node_costs(*CHOSEN, sizes)}
    assert planned == _traced(sizes)
    keys = tokens + cached
    assert planned == _traced({**sizes, "page": 1, "M": keys, "P": sequences * keys})


def _traced(sizes: Sizes) -> dict[str, Cost]:
    return {node.name: node_cost(node, SPECS, sizes) for node in BOUND.nodes if node.call is not None}


def test_bytes_without_a_formula_are_all_that_goes_in_and_out() -> None:
    spec = SPECS["add"]
    call = check_call(spec, {i.name: ArrayType((3, 5), "float16") for i in spec.inputs}, {})
    assert spec.bytes is None and call_cost(spec, call).bytes == 3 * 3 * 5 * 2


def test_values_that_are_alive_at_once() -> None:
    """A chain needs two at a time, however long; views cost nothing, and what is read later stays."""
    g = GraphBuilder(SPECS, "float32")
    x = g.embedding(g.input("ids", ("T",)), g.weight("table", (7, 10)))
    for _ in range(4):
        x = g.silu(x)
    assert value_bytes(g.build(x), SPECS, {"T": 3}) == 2 * 3 * 10 * 4
    g = GraphBuilder(SPECS, "float32")
    x = g.embedding(g.input("ids", ("T",)), g.weight("table", (7, 10)))
    a, b = g.split(x, sizes=(5, 5))
    y = g.silu(g.silu(a))
    assert value_bytes(g.build(g.add(y, b)), SPECS, {"T": 3}) == (10 + 5 + 5) * 3 * 4


def test_a_type_alone_is_no_weight() -> None:
    with pytest.raises(UnsupportedError, match="weight w: its type alone is known"):
        StatedTypes({}).read("w")
