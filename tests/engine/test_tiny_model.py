"""Engines on a real tiny model: what the fake cannot show, keys and values that are numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.catalogue.harness import backends, registry
from tests.engine.fakes import sequence
from tests.graph.tiny import CONFIG, LAYER, Tensors
from tinyllm.engine.engine import Engine
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.private_engine import engine_for_one, run
from tinyllm.engine.sequence import Sequence
from tinyllm.graph.bind import bind
from tinyllm.graph.program import Program
from tinyllm.models.decoder.config import AttentionConfig, GatedDeltaConfig, Mixer, ShortConvConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.selection import parse_selection

LONG = [(7 * n + 3) % CONFIG.vocab_size for n in range(45)]
PROMPTS = [[5, 9], LONG, [31], [1, 2, 3, 4, 5, 6, 7, 8]]


def tiny(backend: str, *before: Mixer) -> Program:
    """A random decoder of two layers; before: what those have in place of attention that it begins with."""
    assert isinstance(LAYER.attention, AttentionConfig)
    layer = replace(LAYER, attention=replace(LAYER.attention, qkv_bias=False))
    recurrent = tuple(replace(LAYER, attention=mixer) for mixer in before)
    graph = decoder(replace(CONFIG, layers=(*recurrent, layer, layer)), registry().specs)
    return bind(graph, registry(), parse_selection(backend, "test"), Tensors(graph.tensors()))


def request(ids: list[int]) -> Sequence:
    """A greedy request that no token ends, of a length of its own."""
    made = sequence("", max_tokens=6 + len(ids) % 5, logprobs=0)
    made.prompt, made.stop_token_ids = list(ids), frozenset()
    return made


Reply = list[tuple[int, float]]
"""Token and log probability of each step."""


def replies(engine: Engine, prompts: list[list[int]]) -> list[Reply]:
    """The reply to each prompt."""
    steps: list[Reply] = [[] for _ in prompts]
    for number, piece in run(engine, [request(p) for p in prompts]):
        steps[number] += [(entry.token_id, entry.logprob) for entry in piece.logprobs]
    return steps


def assert_same(together: list[Reply], alone: list[Reply]) -> None:
    for reply, expected in zip(together, alone, strict=True):
        assert [token for token, _ in reply] == [token for token, _ in expected]
        assert [p for _, p in reply] == pytest.approx([p for _, p in expected], abs=2e-4)


@pytest.mark.parametrize("backend", backends())
def test_every_cache_gives_the_same(backend: str) -> None:
    """A prompt that takes several steps, beside others that decode meanwhile: each gets what it gets alone, in one
    piece. In pages that grow, in pages of a few tokens, and one after the other in a page that is used again."""
    program = tiny(backend)
    alone = [replies(engine_for_one(ModelRunner(program), 256), [p])[0] for p in PROMPTS]
    assert len({tuple(token for token, _ in reply) for reply in alone}) == len(PROMPTS)
    for chunk in (7, 16):
        runner = ModelRunner(program)
        growing = engine_for_one(runner, 256, pages=4, max_running=4, page_size=4, max_step_tokens=chunk)
        assert_same(replies(growing, PROMPTS), alone)
        fixed = Engine(ModelRunner(program), pages=40, page_size=4, max_step_tokens=chunk)
        assert_same(replies(fixed, PROMPTS), alone)
        single = engine_for_one(ModelRunner(program), 256, page_size=4, max_step_tokens=chunk)
        assert_same([replies(single, [p])[0] for p in PROMPTS], alone)
        again = [*LONG[:30], 1, 2], [*LONG[:30], 3]
        fresh = [replies(engine_for_one(ModelRunner(program), 256), [p])[0] for p in again]
        replies(single, [LONG])
        assert_same([replies(single, [p])[0] for p in again], fresh)
        assert single.stats.reused_tokens == 2 * 30


RECURRENT = ShortConvConfig(3), GatedDeltaConfig(2, 4, 8, 4, 4)


def test_the_bytes_of_a_pool_are_those_of_its_arrays() -> None:
    program = tiny("numpy", *RECURRENT)
    pages, rows = program.pool_bytes(5, 4, 3)
    assert pages + rows == sum(array.nbytes for array in program.allocate(5, 4, 3).values())
    assert program.pool_bytes(10, 2, 6) == (pages, 2 * rows) and tiny("numpy").pool_bytes(5, 4, 3) == (pages, 0)
    engine = Engine(ModelRunner(program), pages=40, page_size=4)
    assert (engine.stats.cache_bytes, engine.stats.state_bytes) == (8 * pages, rows // 3)
    replies(engine, PROMPTS)
    assert (engine.stats.cache_bytes, engine.stats.state_bytes) == (8 * pages, rows // 3 * 4)


@pytest.mark.parametrize("backend", backends())
def test_recurrent_states_are_those_of_their_sequences(backend: str) -> None:
    """In chunks, beside others, where sequences are put off for want of pages and begin anew, and in a page that is
    used again: a state goes on with all of a sequence that has ended, or not at all."""
    program = tiny(backend, *RECURRENT)
    assert program.is_recurrent and program.cache_dtypes == ("float32",)
    alone = [replies(engine_for_one(ModelRunner(program), 256), [p])[0] for p in PROMPTS]
    fixed = Engine(ModelRunner(program), pages=40, page_size=4, max_step_tokens=7)
    assert_same(replies(fixed, [*PROMPTS, LONG]), [*alone, alone[1]])
    assert fixed.stats.reused_tokens == 0 and 1 < fixed.runner.rows <= 5
    narrow = Engine(ModelRunner(program), pages=7, page_size=4, max_step_tokens=16)
    prompts = [LONG[:4], LONG[1:5], LONG[2:6]]
    assert_same(replies(narrow, prompts), [replies(engine_for_one(ModelRunner(program), 256), [p])[0] for p in prompts])
    assert narrow.stats.preemptions
    single = engine_for_one(ModelRunner(program), 256, page_size=4, max_step_tokens=7)
    (first,) = replies(single, [LONG])
    whole = [*LONG, *(token for token, _ in first)]
    for prompt, reused in (([*whole, 1], len(whole) - 1), ([*LONG[:30], 1, 2], 0)):
        before = single.stats.reused_tokens
        fresh = replies(engine_for_one(ModelRunner(program), 256), [prompt])
        assert_same(replies(single, [prompt]), fresh)
        assert single.stats.reused_tokens - before == reused
