"""A run of nodes as one call of the library: the same bits as node by node, whatever goes in and whoever calls."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tests.graph.test_program import IDS, QUANTIZED, TOLERANCE, logits, program
from tests.graph.tiny import CONFIG, Tensors, forward, tiny_config
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import GraphBuilder
from tinyllm.graph.program import Program
from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    MlpConfig,
    MoeConfig,
    NormConfig,
    RopeConfig,
)
from tinyllm.models.decoder.decoder import decoder
from tinyllm.plugins import Affine, Int8
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.rope import RopeScaling

pytest.importorskip("tinyllm_native.link")
if not registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)

from tinyllm_native.link import LinkedStep

SCHEMES = {name: registry().plugins.schemes[name] for name in ("q4_1", "q8_0", "q6_k", "iq4_xs", "mxfp4")}
SCHEMES |= {"affine4": Affine(4, 32), "affine3": Affine(3, 16), "int8": Int8(32)}


def layers_with(config: DecoderConfig, **changes: Any) -> DecoderConfig:
    """A decoder whose layers have other settings, of their own or of their attention's."""
    (layer,) = set(config.layers)
    names = {field.name for field in fields(AttentionConfig)}
    attention = replace(layer.attention, **{name: value for name, value in changes.items() if name in names})
    others = {name: value for name, value in changes.items() if name not in names}
    return replace(config, layers=(replace(layer, attention=attention, **others),) * config.num_layers)


WIDE = tiny_config(hidden_size=256, head_dim=64, inner_size=512)
"""Rows that blocks of 256 fit."""


DECODERS = {
    "llama": CONFIG,
    "norms of heads": layers_with(CONFIG, qk_norm="head"),
    "norms of all heads, and after": layers_with(CONFIG, qk_norm="whole", norms="after"),
    "layer norms, no gate": replace(
        layers_with(CONFIG, mlp=MlpConfig(96, "gelu_tanh", bias=True, gated=False), window=4),
        norm=NormConfig(kind="layer", bias=True),
    ),
    "one norm for both parts, rotated by neighbours": replace(
        layers_with(CONFIG, rope=RopeConfig(16, traditional=True), parallel=True), logit_multiplier=0.5
    ),
    "gates of heads, queries that grow, norms after rotation": layers_with(
        CONFIG, gated="head", qk_norm="rotated", rope=RopeConfig(16, query_log_scale=0.3, query_log_period=2)
    ),
    "mixture of experts": layers_with(CONFIG, qk_norm="head", mlp=MoeConfig(24, 5, 2)),
}
"""A layer of each kind that families of many users have."""


class Drawn(Tensors):
    """Random tensors, those of matrices quantized by a scheme that may only be read."""

    def __init__(self, config: DecoderConfig, scheme: Any) -> None:
        super().__init__(decoder(config, registry().specs).tensors())
        rng = np.random.default_rng(0)
        for name, value in self.arrays.items():
            if scheme is not None and any(part in name for part in QUANTIZED):
                self.arrays[name] = scheme.draw(rng, value.shape)


@cache
def node_by_node() -> Registry:
    """All that is installed, no kernel of which may be in a run."""
    plugins = registry().plugins
    kernels = [replace(k, traceable=False) for k in plugins.kernels]
    return Registry(replace(plugins, kernels=kernels), registry().settings)


def both(config: DecoderConfig = CONFIG, tensors: Tensors | None = None, **more: Any) -> tuple[Program, Program]:
    """A program in runs, and the same one node by node."""
    tensors = tensors or Drawn(config, None)
    made = tuple(program("native", config, tensors, asked=asked, **more) for asked in (registry(), node_by_node()))
    assert _runs(made[0]) and not _runs(made[1])
    return made[0], made[1]


def _runs(bound: Program) -> list[LinkedStep]:
    return [step.function for step in bound.steps if isinstance(step.function, LinkedStep)]


def inputs_of(chunk: Chunk) -> dict[str, np.ndarray]:
    """What a program is given for a step of one sequence, in pages of 16."""
    batch = vars(make_step([chunk], 16))
    return batch | {"positions": batch["positions"][:, None]}


def normed(g: GraphBuilder, x: Any, weight: str = "norm") -> Any:
    return g.rms_norm(x, g.weight(weight, (x.type.shape[-1],)), eps=1e-5)


def step(runner: ModelRunner, *chunks: Chunk) -> np.ndarray:
    """Logits of a step."""
    return runner.step(make_step(list(chunks), runner.page_size))


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
def test_a_whole_model_is_one_call(config: DecoderConfig) -> None:
    """Nothing of it is left outside, and the bits are the same."""
    bound, apart = both(config)
    np.testing.assert_array_equal(logits(bound, IDS, [3, 4], 3), logits(apart, IDS, [3, 4], 3))
    assert [one.op for one in bound.steps] == ["run"] and len(apart.steps) > 20
    views = {"split", "split_heads", "merge_heads"}
    assert bound.steps[0].run is not None
    assert [one.op for one in bound.steps[0].run.nodes] == [one.op for one in apart.steps]
    assert len(_runs(bound)[0]._records) == sum(one.op not in views for one in apart.steps)


@pytest.mark.parametrize("cuts", [[], [3], [3, 4, 9], [*range(1, 10)]], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied"])
def test_a_run_gives_the_same_bits(cuts: list[int], dtype: str, tied: bool) -> None:
    """Dense, with biases, in every way to cut a sequence into steps and pages."""
    config = replace(CONFIG, tie_word_embeddings=tied)
    linked, apart = both(config, dtype=dtype)
    for size in (3, 16):
        np.testing.assert_array_equal(logits(linked, IDS, cuts, size), logits(apart, IDS, cuts, size))


ROPES = {
    "part of the head": RopeConfig(6),
    "neighbours": RopeConfig(16, traditional=True),
    "neighbours in part of the head": RopeConfig(6, traditional=True),
    "dynamic": RopeConfig(16, scaling=RopeScaling("dynamic", 2.0, 6)),
    "longrope": RopeConfig(
        6, scaling=RopeScaling("longrope", 3.0, 6, short_factor=(1.0, 1.5, 2.0), long_factor=(1.0, 3.0, 9.0))
    ),
}


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_a_run_with_any_rope_gives_the_same_bits(rope: RopeConfig) -> None:
    """Of those that go by the length: on both sides of the original one."""
    layers = tuple(replace(one, attention=replace(one.attention, rope=rope)) for one in CONFIG.layers)
    config = replace(CONFIG, layers=layers)
    linked, apart = both(config)
    plain = logits(both()[0], IDS, [])
    for cuts in ([], [3, 4, 9]):
        given = logits(linked, IDS, cuts, 3)
        np.testing.assert_array_equal(given, logits(apart, IDS, cuts, 3))
        assert np.abs(given - plain).max() > 1e-3


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied"])
def test_a_quantized_run_gives_the_same_bits(scheme: Any, tied: bool) -> None:
    config = replace(layers_with(WIDE, qkv_bias=not tied), tie_word_embeddings=tied)
    linked, apart = both(config, Drawn(config, scheme))
    for cuts in ([], [3, 4, 9]):
        np.testing.assert_array_equal(logits(linked, IDS, cuts, 3), logits(apart, IDS, cuts, 3))


@pytest.mark.parametrize("fast", [False, True], ids=["exact", "rounded"])
def test_a_quantized_mixture_gives_the_same_bits(fast: bool) -> None:
    """Two sequences, so that an expert has rows of both, and of one alone."""
    config = layers_with(WIDE, qk_norm="head", mlp=MoeConfig(256, 5, 2))
    graph, tensors = decoder(config, registry().specs, "bfloat16"), Drawn(config, SCHEMES["q6_k"])
    given = []
    for asked in (registry(), node_by_node()):
        runner = ModelRunner(bind(graph, asked, parse_selection("native", "test"), tensors, fast=fast), 4, 16)
        assert bool(_runs(runner.program)) == (asked is registry())
        rows = [step(runner, Chunk(IDS[:4], 0, [2]), Chunk(IDS[3:], 0, [1])), step(runner, Chunk(IDS[4:5], 4, [2]))]
        given.append(np.concatenate(rows))
    np.testing.assert_array_equal(*given)


def test_a_run_that_rounds_gives_the_same_bits() -> None:
    """The records name the kernel that was chosen, and rounding is seen."""
    tensors = Drawn(WIDE, SCHEMES["q4_1"])
    graph = decoder(WIDE, registry().specs)
    chosen = parse_selection("native", "test")
    linked, apart = (bind(graph, asked, chosen, tensors, fast=True) for asked in (registry(), node_by_node()))
    assert any(kernel.endswith(":rounded") for kernel in linked.report.kernels.values())
    given = logits(linked, IDS, [6])
    np.testing.assert_array_equal(given, logits(apart, IDS, [6]))
    assert (given != logits(both(WIDE, tensors)[0], IDS, [6])).any()


def test_a_run_is_right() -> None:
    """Against the model in float64: that linked and unlinked err alike would not be seen otherwise."""
    tensors = Drawn(CONFIG, None)
    np.testing.assert_allclose(
        logits(both(CONFIG, tensors)[0], IDS, [4, 5]), forward(CONFIG, tensors, IDS), atol=TOLERANCE, rtol=0
    )


def test_sequences_side_by_side_in_a_pool_that_grows() -> None:
    """Prefill, chunk and decode in one step; the pool moves to larger pages in between, and numbers of pages stay."""
    given = []
    for bound in both(WIDE, Drawn(WIDE, SCHEMES["q4_1"])):
        runner = ModelRunner(bound, 6, 8)
        rows = [step(runner, Chunk(IDS[:4], 0, [4]), Chunk(IDS[:7], 0, [1]))]
        for pages, size in ((9, 8), (9, 16), (20, 32)):
            runner.reserve(pages, size)
            chunks = [Chunk([9, 9, pages], 0, [0], 3), Chunk(IDS[4:6], 4, [4], 2), Chunk([IDS[7]], 7, [1])]
            rows += [step(runner, *chunks), step(runner, Chunk([IDS[8]], 8 if size > 8 else 7, [1]))]
        given.append(np.concatenate(rows))
    np.testing.assert_array_equal(given[0], given[1])


def test_a_step_without_logits() -> None:
    """No rows are wanted: none are given, and keys and values are there for the next step."""
    for bound in both():
        runner = ModelRunner(bound, 2, 16)
        assert step(runner, Chunk(IDS[:-1], 0, [0], 0)).shape == (0, CONFIG.vocab_size)
        last = step(runner, Chunk(IDS[-1:], len(IDS) - 1, [0]))
        np.testing.assert_array_equal(last, logits(bound, IDS, [len(IDS) - 1])[-1:])


def _chatter(bound: Program, seed: int) -> np.ndarray:
    rng, runner, rows = np.random.default_rng(seed), ModelRunner(bound, 4, 16), []
    cached = 0
    for size in (7, 1, 1, 3, 1, 9, 1, 1):
        rows.append(step(runner, Chunk(rng.integers(0, 61, size).tolist(), cached, [seed % 3, 3])))
        cached += size
    return np.concatenate(rows)


def test_two_programs_from_several_threads() -> None:
    """Each gives every thread what it gives alone, whose pages are whose own."""
    programs = [both(WIDE, Drawn(WIDE, SCHEMES["q8_0"]))[0], both(CONFIG)[0]]
    alone = [_chatter(bound, seed) for bound in programs for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(_chatter, bound, seed) for _ in range(3) for bound in programs for seed in range(4)]
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(), alone[number % 8])


def test_pages_are_not_kept() -> None:
    """When their owner drops them they are gone, and so are outputs: the step holds no reference."""
    bound = both()[0]
    state = bound.allocate(4, 16)
    inputs = inputs_of(Chunk(IDS, 0, [2]))
    (out,), state = bound(inputs, state)
    (again,), state = bound(inputs, state)
    np.testing.assert_array_equal(out, again)
    seen = [weakref.ref(array) for array in (*state.values(), out.base, *inputs.values())]
    del state, out, inputs
    gc.collect()
    assert [ref() for ref in seen] == [None] * len(seen)


def test_pages_that_are_read_only_are_copied() -> None:
    """They stay as they are; what comes out holds the new rows."""
    linked, apart = both()
    inputs = inputs_of(Chunk(IDS, 0, [2]))
    (wanted,), written = apart(inputs, apart.allocate(4, 16))
    state = linked.allocate(4, 16)
    given = dict(state)
    for array in given.values():
        array.flags.writeable = False
    (out,), after = linked(inputs, state)
    np.testing.assert_array_equal(out, wanted)
    for name, array in given.items():
        assert not array.any() and after[name] is not array
        np.testing.assert_array_equal(after[name], written[name])


def test_arrays_in_any_layout() -> None:
    """Inputs and pages that are views of others are read, and pages written, as the numbers that they show."""
    linked, apart = both()
    plain = inputs_of(Chunk(IDS, 0, [2]))
    strided = {name: np.repeat(array.astype(np.int64), 2, -1)[..., ::2] for name, array in plain.items()}
    wanted, written = apart(plain, apart.allocate(4, 16))
    for axis in range(4):
        pages = {name: np.repeat(array, 2, axis) for name, array in linked.allocate(4, 16).items()}
        cut = tuple(slice(None, None, 2 if n == axis else 1) for n in range(4))
        given, after = linked(strided, {name: array[cut] for name, array in pages.items()})
        np.testing.assert_array_equal(given[0], wanted[0])
        for name, array in after.items():
            np.testing.assert_array_equal(array, written[name])


@pytest.mark.parametrize("axis", range(4))
def test_pages_that_are_read_alone(axis: int) -> None:
    """They are no state and lie as they like."""
    g = GraphBuilder(registry().specs, "float32")
    q = normed(g, g.input("q", ("T", 4, 8), "float32"))
    k_pages, v_pages = (g.state(name, (2, "page", 8)) for name in ("k", "v"))
    kinds: dict[str, tuple[int | str, ...]] = {"q_start": ("B1",), "kv_len": ("B",), "block_table": ("B", "M")}
    indices = [g.input(name, shape) for name, shape in kinds.items()]
    graph = g.build(g.paged_attention(q, k_pages, v_pages, *indices))
    rng = np.random.default_rng(0)
    pages = {name: rng.standard_normal((3, 2, 4, 8)).astype(np.float32) for name in ("k", "v")}
    inputs = {"q_start": [0, 2], "kv_len": [7], "block_table": [[2, 0]]}
    given = {name: np.array(value, np.int32) for name, value in inputs.items()}
    given["q"] = rng.standard_normal((2, 4, 8)).astype(np.float32)
    cut = tuple(slice(None, None, 2 if n == axis else 1) for n in range(4))
    strided = {name: np.repeat(array, 2, axis)[cut] for name, array in pages.items()}
    chosen, weights = parse_selection("native", "test"), Tensors(graph.tensors())
    linked, apart = (bind(graph, asked, chosen, weights) for asked in (registry(), node_by_node()))
    assert _runs(linked)
    for state in (pages, strided, pages):
        np.testing.assert_array_equal(linked(given, {**state})[0][0], apart(given, {**pages})[0][0])
