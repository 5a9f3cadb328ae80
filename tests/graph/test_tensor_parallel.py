"""A graph shared out among processes computes what the whole one does: here each is a thread, which binds its part."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.graph.tiny import CONFIG, Tensors
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.graph.bind import bind
from tinyllm.graph.passes.tensor_parallel import tensor_parallel
from tinyllm.graph.program import Program
from tinyllm.graph.weight_share import WeightShare, weight_bytes
from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    GatedDeltaConfig,
    LayerConfig,
    MlpConfig,
    MoeConfig,
    RopeConfig,
)
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.communicator import Alike, Communicator

IDS = [3, 17, 42, 8, 60, 0, 5]
TOLERANCE = 2e-4  # float32 through two layers, logits of size 10


class Thread(Communicator):
    """A rank among threads."""

    def __init__(self, rank: int, parts: list[Any], barrier: Barrier) -> None:
        self.rank, self.ranks, self._parts, self._barrier = rank, len(parts), parts, barrier

    def sum(self, x: Any) -> Any:
        """All parts in the order of the ranks."""
        self._parts[self.rank] = np.array(x)
        self._barrier.wait(30)
        total = sum(self._parts[1:], self._parts[0])
        self._barrier.wait(30)
        return total


def with_layer(attention: Any = None, mlp: Any = None, **fields: Any) -> DecoderConfig:
    """The tiny config with other layers."""
    layer = LayerConfig(attention or CONFIG.layers[0].attention, mlp or MlpConfig(96), **fields)
    return replace(CONFIG, layers=(layer,) * 2)


ROPE = RopeConfig(16)
CONFIGS = {
    "llama": CONFIG,
    "biases, sinks, gates": with_layer(
        AttentionConfig(4, 2, 16, ROPE, True, True, "head", window=5, sinks=True, gated="whole"),
        MlpConfig(96, "gelu", bias=True, gated=False),
    ),
    "gates by head": with_layer(AttentionConfig(4, 2, 16, ROPE, qk_norm="rotated", gated="head", v_norm=True)),
    "experts": with_layer(mlp=MoeConfig(32, 5, 2, shared_size=64, shared_gate=True)),
    "experts with biases": with_layer(mlp=MoeConfig(32, 5, 2, expert_bias=True, router_bias=True)),
    "recurrent, whole": replace(
        CONFIG, layers=(LayerConfig(GatedDeltaConfig(2, 2, 8, 8, 4), MlpConfig(96)), CONFIG.layers[0])
    ),
    "parallel": with_layer(parallel=True),
}


def run(program: Program) -> list[np.ndarray]:
    """Logits of two steps, as far as the program gives them."""
    runner = ModelRunner(program, 2, 16)
    given = []
    for start, end in ((0, 4), (4, len(IDS))):
        batch = make_step([Chunk(IDS[start:end], start, [1], end - start)], 16)
        inputs = {name: getattr(batch, name) for name in vars(batch)}
        inputs |= {name: inputs[name][:, None] for name in ("positions", "lengths")}
        outputs, runner._state = program(inputs, runner._state or {})
        given += outputs
    return given


def shared_out(config: DecoderConfig, tensors: Tensors, backend: str, ranks: int) -> list[list[np.ndarray]]:
    """What each rank gives."""
    parts, barrier = [None] * ranks, Barrier(ranks)

    def bound(rank: int) -> Program:
        group = Thread(rank, parts, barrier)
        graph, cuts = tensor_parallel(decoder(config, registry().specs), group)
        return bind(graph, registry(), parse_selection(backend, "test"), WeightShare(tensors, cuts, group))

    programs = [bound(rank) for rank in range(ranks)]
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, programs))


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", CONFIGS)
def test_the_sum_of_the_parts_is_the_whole(name: str, backend: str) -> None:
    config = CONFIGS[name]
    graph = decoder(config, registry().specs)
    tensors = Tensors(graph.tensors(), 1)
    whole = run(bind(graph, registry(), parse_selection(backend, "test"), tensors))
    first, second = shared_out(config, tensors, backend, 2)
    assert second == []
    np.testing.assert_allclose(np.concatenate(first), np.concatenate(whole), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", ["llama", "experts"])
def test_quantized_weights_are_cut_at_whole_groups(name: str, backend: str) -> None:
    config = CONFIGS[name]
    graph = decoder(config, registry().specs)
    tensors = Tensors(graph.tensors(), 2, ("_proj.weight",), Affine(4, 16))
    whole = run(bind(graph, registry(), parse_selection(backend, "test"), tensors))
    first, _ = shared_out(config, tensors, backend, 2)
    np.testing.assert_allclose(np.concatenate(first), np.concatenate(whole), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llama", "experts"])
def test_each_has_its_share_of_the_layers_and_two_sums_a_layer(name: str) -> None:
    graph = decoder(CONFIGS[name], registry().specs)
    tensors = Tensors(graph.tensors())
    shares = [tensor_parallel(graph, Alike(2, rank)) for rank in range(2)]
    cut = {weight for _, cuts in shares for weight in cuts}
    assert {weight for weight in graph.weights if "_proj.weight" in weight} <= cut
    for weight in cut:
        parts = [WeightShare(tensors, cuts, Alike(2, rank)).read(weight) for rank, (_, cuts) in enumerate(shares)]
        axis = shares[0][1][weight].axis
        assert np.array_equal(np.concatenate(parts, axis), tensors.arrays[weight])
    sums = [[node.op for node in part.nodes].count("all_reduce") for part, _ in shares]
    assert sums == ([4, 4] if name == "llama" else [6, 6])  # the expert that all go through has one more
    held = [weight_bytes(part, WeightShare(tensors, cuts, Alike(2, 0))) for part, cuts in shares]
    assert held[1] < held[0] < 0.65 * weight_bytes(graph, tensors)


ERRORS: dict[str, tuple[Callable[[], DecoderConfig], int, type[Exception], str]] = {
    "heads": (lambda: CONFIG, 3, InvalidInputError, "divides the 4 heads and the 2 heads of keys .*: 1, 2, got 3"),
    "inner size": (
        lambda: with_layer(mlp=MlpConfig(97)),
        2,
        InvalidInputError,
        "expected a size that 2 divides, got 97",
    ),
    "norm of all heads": (
        lambda: with_layer(AttentionConfig(4, 2, 16, ROPE, qk_norm="whole")),
        2,
        UnsupportedError,
        "rms_norm needs all of",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_shared_out_is_named(case: str) -> None:
    config, ranks, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message):
        tensor_parallel(decoder(config(), registry().specs), Alike(ranks))


def test_groups_that_would_be_cut_apart_are_named() -> None:
    graph = decoder(CONFIG, registry().specs)
    tensors = Tensors(graph.tensors(), 0, ("down_proj.weight",), Affine(4, 32))
    _, cuts = tensor_parallel(graph, Alike(2))
    with pytest.raises(UnsupportedError, match=r"layers.0.mlp.down_proj.weight: its 96 columns, held as affine4/32"):
        WeightShare(tensors, cuts, Alike(2)).info("model.layers.0.mlp.down_proj.weight")
