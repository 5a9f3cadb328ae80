"""The generation loop on a real tiny model: what the fake cannot show, keys and values that are numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.catalogue.harness import backends, registry
from tests.engine.fakes import sequence
from tests.graph.tiny import CONFIG, Tensors
from tinyllm.engine import generation
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sequence import Sequence
from tinyllm.graph.compose import compose
from tinyllm.graph.program import Program
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.selection import parse_selection

LONG = [(7 * n + 3) % CONFIG.vocab_size for n in range(45)]
PROMPTS = [[5, 9], LONG, [31], [1, 2, 3, 4, 5, 6, 7, 8]]


def tiny(backend: str) -> Program:
    """A random decoder of two layers."""
    graph = decoder(replace(CONFIG, qkv_bias=False), registry().specs)
    return compose(graph, registry(), parse_selection(backend, "test"), Tensors(graph.tensors()))


def request(ids: list[int]) -> Sequence:
    """A greedy request that no token ends, of a length of its own."""
    made = sequence("", max_tokens=6 + len(ids) % 5, logprobs=0)
    made.prompt, made.stop_token_ids = list(ids), frozenset()
    return made


def replies(program: Program, requests: list[Sequence]) -> list[list[tuple[int, float]]]:
    """Token and log probability of each step of each request."""
    found: list[list[tuple[int, float]]] = [[] for _ in requests]
    for number, piece in generation.generate(ModelRunner(program), requests):
        found[number] += [(entry.token_id, entry.logprob) for entry in piece.logprobs]
    return found


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("chunk", [7, 16])
def test_a_long_prompt_in_chunks_beside_short_ones(backend: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that takes several steps, beside others that decode meanwhile: each gets what it gets alone, in one
    piece."""
    program = tiny(backend)
    alone = [replies(program, [request(p)])[0] for p in PROMPTS]
    assert len({tuple(token for token, _ in reply) for reply in alone}) == len(PROMPTS)
    monkeypatch.setattr(generation, "PREFILL_CHUNK", chunk)
    monkeypatch.setattr(generation, "PAGE_STEP", 4)
    for together, expected in zip(replies(program, [request(p) for p in PROMPTS]), alone, strict=True):
        assert [token for token, _ in together] == [token for token, _ in expected]
        assert [p for _, p in together] == pytest.approx([p for _, p in expected], abs=2e-4)
