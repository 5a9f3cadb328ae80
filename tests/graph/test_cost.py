"""What nodes must compute and move: sums over whole models that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalogue.harness import backends, registry
from tests.graph.test_program import made, program
from tests.graph.tiny import CONFIG, FOUR_BITS, LAYER
from tinyllm.graph.tools.cost import Cost, held_bytes, node_cost, step_sizes
from tinyllm.models.decoder.config import MoeConfig

SPECS = registry().specs
HIDDEN, HEAD, INNER, VOCAB = 64, 61 * 64, 96, 61
OF_A_LAYER = HIDDEN * (64 + 32 + 32 + 64 + 3 * INNER)
BOUND = program("numpy")


@given(tokens=st.integers(1, 300), cached=st.integers(0, 300))
def test_products_count_two_operations_for_each_number_of_a_weight(tokens: int, cached: int) -> None:
    """And read each weight once, whatever the tokens are; the last layer computes the rows that are wanted."""
    sizes = step_sizes(tokens, tokens + cached)
    costs = [(node, node_cost(node, SPECS, sizes)) for node in BOUND.nodes]
    products = [cost for node, cost in costs if node.op == "linear" and ".layers.0." in node.name]
    assert sum(cost.flops for cost in products) == 2 * tokens * OF_A_LAYER
    head = next(cost for node, cost in costs if node.name == "logits")
    assert head == Cost(2 * HEAD, 4 * (HEAD + HIDDEN + VOCAB))
    attention = [cost for node, cost in costs if node.op == "paged_attention"]
    keys, read_and_written = 2 * 2 * 16 * (tokens + cached), 2 * 4 * 16 * tokens
    assert attention[0].bytes == 4 * (keys + read_and_written)
    assert not any(cost.bytes or cost.flops for node, cost in costs if node.op in ("split", "merge_heads"))


def test_a_mixture_reads_the_experts_that_are_named() -> None:
    """Of two tokens four of the five at most."""
    mixture = replace(LAYER, mlp=MoeConfig(24, 5, 2))
    bound = program("numpy", replace(CONFIG, layers=(mixture,)))
    found = [node_cost(node, SPECS, step_sizes(1, 1, 2)).bytes for node in bound.nodes if node.op == "moe_experts"]
    assert 0 <= sum(found) - 4 * (4 * 3 * 24 * HIDDEN) < 4 * 5 * HIDDEN


@pytest.mark.skipif("torch" not in backends(), reason="needs a second backend")
def test_copies_read_and_write_their_value() -> None:
    bound = program("linear=torch,*=numpy")
    copies = {n.name: node_cost(n, SPECS, step_sizes(7, 9)) for n in bound.nodes if n.op == "copy"}
    of_hidden = copies["model.layers.0.rms_norm numpy:cpu->torch:cpu"]
    assert of_hidden == Cost(0, 2 * 4 * 7 * HIDDEN)
    assert all(cost.bytes > 0 for cost in copies.values())


def test_weights_are_held_once() -> None:
    """A tied table counts once; a quantized one as it is stored."""
    table = 4 * VOCAB * HIDDEN
    whole, tied = (program("numpy", replace(CONFIG, tie_word_embeddings=tie)) for tie in (False, True))
    assert held_bytes(whole.nodes, SPECS) - held_bytes(tied.nodes, SPECS) == table
    assert held_bytes(whole.nodes, SPECS) == 2 * table + 2 * 4 * OF_A_LAYER
    quantized = program("numpy", tensors=made(quantized=("embed_tokens",)))
    stored = int(VOCAB * HIDDEN * FOUR_BITS.bits_per_weight / 8)
    assert held_bytes(whole.nodes, SPECS) - held_bytes(quantized.nodes, SPECS) == table - stored
