"""Runs sequences to their end, all in one batch, each in one page of its own: the engine without a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sequence import Piece, Sequence
from tinyllm.engine.step_batch import Chunk, make_step

PREFILL_CHUNK = 2048
"""Most tokens of one step: bounds the memory of activations."""
PAGE_STEP = 256
"""Pages grow by this many tokens, so that a pool is not moved at every token."""


def generate(
    runner: ModelRunner, sequences: list[Sequence], on_prefill: Callable[[int, int], None] | None = None
) -> Iterator[tuple[int, Piece]]:
    """Yield (index of the sequence, piece) as tokens come, until all are finished.

    Sequence i uses page i; where it says it is cached, that page holds its first `cached` keys.
    on_prefill: told (prompt tokens done, in all) after each step that did some, those of all sequences together.
    """
    for number, sequence in enumerate(sequences):
        sequence.pages = [number]
    prompts = sum(s.prompt_left for s in sequences)
    left = prompts
    running = list(enumerate(sequences))
    while running:
        chunks, room = [], PREFILL_CHUNK
        for number, sequence in running:
            tokens = sequence.pending()[:room]
            if tokens:
                chunks.append((number, sequence, tokens))
                room -= len(tokens)
        _reserve(runner, len(sequences), chunks)
        logits = runner.step(make_step([Chunk(t, s.cached, s.pages) for _, s, t in chunks], runner.page_size))
        for _, sequence, tokens in chunks:
            sequence.cached += len(tokens)
        before, left = left, sum(s.prompt_left for s in sequences)
        if on_prefill and left < before:
            on_prefill(prompts - left, prompts)
        for row, (number, sequence, _) in enumerate(chunks):
            if not sequence.pending():
                yield number, sequence.advance(logits[row])
        running = [(n, s) for n, s in running if s.finish_reason is None]


def _reserve(runner: ModelRunner, pages: int, chunks: list[tuple[int, Sequence, list[int]]]) -> None:
    """Room for this step, in page sizes that double so that moving the pool stays rare."""
    needed = max(s.cached + len(t) for _, s, t in chunks)
    if needed <= runner.page_size and pages <= runner.pages and not runner.empty:
        return
    limit = max(s.limit for _, s, _ in chunks)
    expected = max(min(s.limit, len(s.prompt) + s.params.max_tokens) for _, s, _ in chunks)
    size = max(needed, min(limit, max(min(expected, 2 * needed), 0 if runner.empty else 2 * runner.page_size)))
    runner.reserve(pages, -(-size // PAGE_STEP) * PAGE_STEP)
