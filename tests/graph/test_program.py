"""Bound programs: right on every backend, in every way to cut a sequence into steps, with merged, packed and mixed
weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.catalogue.harness import backends, registry, with_kernels
from tests.graph.tiny import CONFIG, LAYER, Tensors, forward
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.errors import CheckpointError
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import GraphBuilder
from tinyllm.graph.passes.merge import merge_calls, merge_projections
from tinyllm.graph.program import Program
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.types import Call

IDS = [3, 17, 42, 8, 60, 0, 5, 5, 31, 22]
QUANTIZED = ("_proj.weight", "embed_tokens")
TOLERANCE = 2e-4  # float32 through two layers, logits of size 10


def made(config: DecoderConfig = CONFIG, quantized: tuple[str, ...] = (), seed: int = 0) -> Tensors:
    """Tensors of a config."""
    return Tensors(decoder(config, registry().specs).tensors(), seed, quantized)


def program(
    selection: str,
    config: DecoderConfig = CONFIG,
    tensors: Tensors | None = None,
    dtype: str = "float32",
    asked: Registry | None = None,
    kv_cache_dtype: str = "",
) -> Program:
    """The bound program of a config."""
    graph = decoder(config, registry().specs, dtype, kv_cache_dtype)
    return bind(graph, asked or registry(), parse_selection(selection, "test"), tensors or made(config))


def logits(bound: Program, ids: list[int], cuts: list[int], page_size: int = 16) -> np.ndarray:
    """Logits of every position, computed in steps that end at `cuts`, in pages that are not in order."""
    runner = ModelRunner(bound, 8, page_size)
    pages = [5, 2, 7, 0][: -(-len(ids) // page_size)]
    rows, start = [], 0
    for end in [*cuts, len(ids)]:
        if end > start:
            rows.append(runner.step(make_step([Chunk(ids[start:end], start, pages, end - start)], page_size)))
        start = end
    return np.concatenate(rows)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("quantized", [(), QUANTIZED], ids=["float", "quantized"])
@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied"])
def test_equals_the_model_written_out(backend: str, quantized: tuple[str, ...], tied: bool) -> None:
    """Every backend gives the float64 model's logits."""
    config = replace(CONFIG, tie_word_embeddings=tied)
    tensors = made(config, quantized)
    got = logits(program(backend, config, tensors), IDS, [])
    np.testing.assert_allclose(got, forward(config, tensors, IDS), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", backends())
@given(
    cuts=st.lists(st.integers(1, len(IDS) - 1), max_size=9, unique=True).map(sorted),
    page_size=st.sampled_from([3, 4, 16]),
)
@settings(max_examples=12, deadline=None)
def test_prefill_chunks_and_decode_agree(backend: str, cuts: list[int], page_size: int) -> None:
    """However a sequence is cut into steps and pages, its logits are the same."""
    bound = _bound(backend)
    np.testing.assert_allclose(logits(bound, IDS, cuts, page_size), logits(bound, IDS, []), atol=TOLERANCE, rtol=0)


_PROGRAMS: dict[str, Program] = {}


def _bound(backend: str) -> Program:
    if backend not in _PROGRAMS:
        _PROGRAMS[backend] = program(backend)
    return _PROGRAMS[backend]


@pytest.mark.parametrize("backend", backends())
def test_neighbours_do_not_matter(backend: str) -> None:
    """A batch of a prefill, a chunk and a decode gives each sequence what it gets alone."""
    bound = _bound(backend)
    others = [[9, 9, 1], IDS[:6], [50]]
    runner = ModelRunner(bound, 6, 8)
    runner.step(make_step([Chunk(others[1][:4], 0, [4]), Chunk(IDS[:9], 0, [1, 3])], 8))
    mixed = make_step(
        [Chunk(others[0], 0, [0]), Chunk(others[1][4:], 4, [4]), Chunk([IDS[9]], 9, [1, 3]), Chunk(others[2], 0, [5])],
        8,
    )
    got = runner.step(mixed)
    alone = [logits(bound, ids, [])[-1] for ids in (others[0], others[1], IDS, others[2])]
    np.testing.assert_allclose(got, np.stack(alone), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", backends())
def test_pages_that_do_not_lie_in_one_piece_are_counted(backend: str) -> None:
    """One page costs nothing, neighbours where the backend reads them in place nothing either; otherwise all bytes of K
    and V, unless it reads pages wherever they lie."""
    bound, table = _bound(backend), np.array([[3, -1, -1], [5, 6, 7], [0, 2, 9]], np.int32)
    pages = 2 * CONFIG.num_layers * LAYER.attention.num_kv_heads * 4 * LAYER.attention.head_dim * 4
    neighbours = 0 if registry().backend(backend).heads_first else 3 * pages
    counted = [
        bound.gathered(np.array(kv_len), table[rows], 4)
        for kv_len, rows in (([4], [0]), ([12], [1]), ([5], [2]), ([1, 9], [0, 2]))
    ]
    wherever = registry().backend(backend).reads_pages
    assert counted == ([0] * 4 if wherever else [0, neighbours, 2 * pages, 3 * pages])


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize(("dtype", "off"), [("float16", 5e-3), ("bfloat16", 5e-2)])
def test_keys_and_values_in_16_bits(backend: str, dtype: str, off: float) -> None:
    """They take half the memory and are rounded once: logits are nearly those of float32, however steps are cut."""
    narrow, wide = program(backend, kv_cache_dtype=dtype), _bound(backend)
    sizes = [sum(a.page_bytes(16) for a in bound._allocations.values()) for bound in (narrow, wide)]
    assert narrow.cache_dtypes == (dtype,) and 2 * sizes[0] == sizes[1]
    got = logits(narrow, IDS, [])
    error = np.abs(got - logits(wide, IDS, [])).max()
    assert off / 100 < error < off
    np.testing.assert_allclose(logits(narrow, IDS, [3, 4, 8]), got, atol=TOLERANCE, rtol=0)


def test_projections_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """q, k and v are one product, gate and up another, their weights stacked; the result is as without merging."""
    merged = merge_calls(decoder(CONFIG, registry().specs), made())
    products = [n for n in merged.nodes if n.op == "linear"]
    assert len(products) == 4 * CONFIG.num_layers + 1
    parts = [merged.weights[n.inputs["weight"]].parts for n in products[:4]]
    assert [[part.split(".")[-2] for part in some] for some in parts] == [
        ["q_proj", "k_proj", "v_proj"],
        [],
        ["gate_proj", "up_proj"],
        [],
    ]
    bound = _bound("numpy")
    monkeypatch.setattr("tinyllm.graph.bind.merge_calls", lambda graph, source: graph)
    plain = program("numpy")
    assert len(plain.steps) > len(bound.steps)
    np.testing.assert_allclose(logits(bound, IDS, []), logits(plain, IDS, []), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("op", ["swiglu", "geglu"])
def test_a_gate_and_its_up_are_merged(op: str) -> None:
    """Whatever the activation is: one product, split before it."""
    g = GraphBuilder(registry().specs, "float32")
    x = g.input("x", ("T", 8), "float32")
    gate, up = (g.linear(x, g.weight(f"{name}.weight", (6, 8))) for name in ("gate", "up"))
    merged = merge_projections(g.build(getattr(g, op)(gate, up)), lambda name: "float32")
    assert [node.op for node in merged.nodes] == ["linear", "split", op]
    assert [w.tensors for w in merged.weights.values()] == [("gate.weight", "up.weight")]


def test_only_weights_of_one_form_are_merged() -> None:
    """A quantized k among float q and v stays by itself; q and v are merged."""
    tensors = made(quantized=("k_proj.weight",))
    merged = merge_calls(decoder(CONFIG, registry().specs), tensors)
    first = [
        (merged.weights[n.inputs["weight"]].name.split(".")[-2], len(merged.weights[n.inputs["weight"]].parts))
        for n in merged.nodes
        if n.name.startswith("model.layers.0.self_attn") and n.op == "linear"
    ]
    assert first == [("v_proj", 2), ("k_proj", 0), ("o_proj", 0)]
    got = logits(program("numpy", tensors=tensors), IDS, [])
    np.testing.assert_allclose(got, forward(CONFIG, tensors, IDS), atol=TOLERANCE, rtol=0)


def test_a_tied_weight_is_read_once_and_shared() -> None:
    """Embedding and head name one `prepare`, so that they have one form; of a quantized table each has its own, and
    the report says so."""
    config = replace(CONFIG, tie_word_embeddings=True)
    name = "model.embed_tokens.weight"
    for quantized, copies in (((), []), ((name,), [f"{name}: */embedding:rows, numpy/linear:own"])):
        tensors = made(config, quantized)
        pinned = with_kernels(kernels="numpy/linear=own")
        pinned.plugins.kernels[:] = [k for k in pinned.plugins.kernels if k.name != "native"]
        assert program("numpy", config, tensors, asked=pinned).report.second_copies == copies
        assert tensors.reads.count(name) == 1


@pytest.mark.parametrize("tied", [False, True])
def test_what_prepare_is_told_of_a_program(tied: bool) -> None:
    """That packing is paid once, and whether another op reads the weight as it is."""
    calls: dict[tuple[int, int], Call] = {}

    def prepare(weight: np.ndarray, call: Call) -> np.ndarray:
        calls[weight.shape] = call
        return weight

    def linear(x: np.ndarray, weight: np.ndarray, *, bias: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(x @ weight.T if bias is None else x @ weight.T + bias)

    asked = with_kernels(Kernel("numpy", "linear", "own_packing", lambda: linear, priority=9, prepare=prepare))
    config = replace(CONFIG, tie_word_embeddings=tied)
    tensors = made(config)
    bound = bind(decoder(config, asked.specs), asked, parse_selection("numpy", "test"), tensors)
    assert all(call.weights_packed for call in calls.values())
    assert {shape for shape, call in calls.items() if call.shared} == ({(61, 64)} if tied else set())
    np.testing.assert_allclose(logits(bound, IDS, []), forward(config, tensors, IDS), atol=TOLERANCE, rtol=0)


def test_weights_that_run_expanded_are_counted() -> None:
    """By scheme and kernel, their bytes before and after; a table that is looked up as it is costs nothing."""
    tensors = made(quantized=QUANTIZED)
    products = [array for name, array in tensors.arrays.items() if "_proj.weight" in name]
    before, after = sum(w.nbytes for w in products), sum(4 * w.shape[0] * w.shape[1] for w in products)
    pinned = with_kernels(kernels="numpy/linear=own")
    assert program("numpy", tensors=tensors, asked=pinned).report.expanded == {
        "affine4/32 on numpy/linear:own": (before, after)
    }
    assert program("numpy").report.expanded == {}


def test_a_step_owns_its_pages() -> None:
    """The state handed in is emptied; the one handed back holds the pages."""
    bound = _bound("numpy")
    state = bound.allocate(1, 8)
    names = set(state)
    batch = make_step([Chunk([1, 2], 0, [0])], 8)
    inputs = vars(batch) | {"positions": batch.positions[:, None]}
    _, after = bound(inputs, state)
    assert state == {} and set(after) == names
    assert all(np.abs(after[n][0, :, :2]).min() > 0 and not after[n][0, :, 2:].any() for n in names)


@pytest.mark.parametrize("backend", backends())
def test_pools_grow_and_keep_what_they_hold(backend: str) -> None:
    """More pages and larger ones: the keys that were there stay."""
    runner = ModelRunner(_bound(backend), 1, 6)
    runner.step(make_step([Chunk(IDS[:6], 0, [0])], 6))
    runner.reserve(3, 16)
    got = runner.step(make_step([Chunk(IDS[6:], 6, [0], len(IDS) - 6)], 16))
    np.testing.assert_allclose(got, logits(_bound(backend), IDS, [])[6:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", [b for b in backends() if b != "numpy"])
def test_16_bit_models_run(backend: str) -> None:
    """bfloat16 activations and weights: near the float64 model, and float32 logits out."""
    got = logits(program(backend, dtype="bfloat16"), IDS, [5])
    assert got.dtype == np.float32
    wanted = forward(CONFIG, made(), IDS)
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()


def test_wrong_shapes_are_named() -> None:
    """A tensor that does not fit its node."""
    tensors = made()
    tensors.arrays["model.norm.weight"] = np.ones(63, np.float32)
    with pytest.raises(CheckpointError, match=r"model.norm.weight: expected shape \[64\], got \[63\]"):
        program("numpy", tensors=tensors)
