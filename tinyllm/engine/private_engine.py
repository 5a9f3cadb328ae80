"""An engine that nobody else uses, run to the end by whoever made it: how `LLM` and `Chat` answer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from tinyllm.engine.engine import Engine
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sequence import Piece, Sequence

PAGE_TOKENS = 256
"""Tokens by whose multiples a sequence's page grows."""
STEP_TOKENS = 2048
"""Most tokens of a step: bounds the memory of activations."""


def engine_for_one(runner: ModelRunner, context: int, **settings: Any) -> Engine:
    """An engine for one sequence at a time.

    Its cache is one page, which grows with the sequence up to `context` tokens: keys and values lie in one piece on
    every backend. The next sequence goes on after the tokens that it has in common with the one before.

    Args:
        settings: those of `Engine`, where they are to be others.
    """
    sizes = {"pages": 1, "page_size": PAGE_TOKENS, "max_step_tokens": STEP_TOKENS, "max_running": 1}
    return Engine(runner, largest_page=context, **sizes | settings)


def run(
    engine: Engine, sequences: list[Sequence], on_prefill: Callable[[int, int], None] | None = None
) -> Generator[tuple[int, Piece]]:
    """Run sequences to their end on an engine without other work, and yield (index of the sequence, piece).

    Closing the iterator drops what is left. An engine that is interrupted within a step (by `KeyboardInterrupt`) still
    `has_work`, and is of no further use.

    Args:
        on_prefill: called with (prompt tokens computed, those to compute in all) after each step that computed some.

    Raises:
        Exception: what ended the first sequence that failed; where that was a kernel, what the kernel raised.
    """
    computed, reused = engine.stats.prompt_tokens, engine.stats.reused_tokens
    prompts, done = sum(len(s.prompt) for s in sequences), 0
    engine.add("", sequences)
    try:
        while engine.has_work:
            events, stats = engine.step(), engine.stats
            if on_prefill is not None and stats.prompt_tokens - computed > done:
                done = stats.prompt_tokens - computed
                on_prefill(done, prompts - (stats.reused_tokens - reused))
            for event in events:
                if event.error is not None:
                    raise event.error.__cause__ or event.error
                if event.piece is not None:
                    yield event.index, event.piece
    except (Exception, GeneratorExit):
        engine.cancel("")
        raise
