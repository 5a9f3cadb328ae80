"""Measures how long the steps of a model take here: the whole of `Engine.step`, its own Python included."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from statistics import median
from typing import Any

import numpy as np

from tinyllm.engine.engine import Engine
from tinyllm.engine.sequence import Sequence
from tinyllm.llm import LLM
from tinyllm.scale.simulate.step_times import StepTimes

PROMPT_TOKENS = (0, 32, 128, 512)
DECODING = (0, 1, 2, 4, 8, 16)
CONTEXT = 256
"""Tokens that each decoding sequence has: more of them take longer, which the table leaves out."""
REPEATS = 3


def measure(
    llm: LLM,
    prompt_tokens: Several[int] = PROMPT_TOKENS,
    decoding: Several[int] = DECODING,
    context: int = CONTEXT,
    repeats: int = REPEATS,
    report: Callable[[int, int], Any] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> StepTimes:
    """A table of the medians of a few steps each.

    Args:
        prompt_tokens, decoding: the rows and columns, from 0.
        context: tokens of the sequences that decode; less where the model has room for fewer.
        repeats: steps of which each value is the median.
        report: told how many columns are done, and of how many.
        clock: gives the time in seconds.
    """
    context = min(context, llm.context // 2)
    columns = []
    for count in decoding:
        columns.append(_Column(llm, count, context, max(prompt_tokens), repeats, clock).seconds(prompt_tokens))
        report(len(columns), len(decoding))
    rows = tuple(tuple(float(column[row]) for column in columns) for row in range(len(prompt_tokens)))
    return StepTimes(tuple(prompt_tokens), tuple(decoding), rows, f"{llm.backend_name}, {context} tokens of context")


class _Column:
    """An engine in which some sequences decode."""

    def __init__(self, llm: LLM, count: int, context: int, most: int, repeats: int, clock: Callable[[], float]) -> None:
        self._llm, self._random, self._count = llm, np.random.default_rng(count), count
        self._clock, self._repeats, self._most = clock, repeats, min(most, llm.context - 2)
        tokens = (count + 1) * (llm.context + llm.program.page_size)
        self._engine: Engine = llm.engine(tokens, max_step_tokens=most + count, max_running=count + 1)
        decoding = [self._add(f"decodes {number}", context, llm.context - context) for number in range(count)]
        while not all(sequence.generated for sequence in decoding):
            self._engine.step()

    def seconds(self, prompt_tokens: Several[int]) -> list[float]:
        """Of a step with so many tokens of a prompt beside the sequences, for each number."""
        return [self._step(tokens) for tokens in prompt_tokens]

    def _step(self, tokens: int) -> float:
        if not tokens and not self._count:
            return 0.0
        times = []
        for number in range(self._repeats + 1):
            if tokens:
                self._add(f"reads {tokens} {number}", min(tokens, self._most), 1)
            began = self._clock()
            self._engine.step()
            times.append(self._clock() - began)
        return median(times[1:])  # the first may take memory for the first time

    def _add(self, name: str, tokens: int, reply: int) -> Sequence:
        ids = self._random.integers(0, self._llm.config.vocab_size, tokens).tolist()
        params = self._llm.sampling({"max_tokens": reply, "temperature": 0.0, "ignore_eos": True})
        sequence = self._llm.sequence(ids, True, params)
        self._engine.add(name, [sequence])
        return sequence
