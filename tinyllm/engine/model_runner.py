"""Runs steps of a bound program and owns its page pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.step_batch import StepBatch
from tinyllm.graph.program import Pages, Program


class ModelRunner:
    """A program with its pages. Callers deal in page numbers only; nothing else holds a reference to the pool."""

    def __init__(self, program: Program, pages: int = 0, page_size: int = 1) -> None:
        self.program = program
        self.pages = pages
        self.page_size = page_size
        self._state: Pages | None = program.allocate(pages, page_size) if pages else None

    @property
    def empty(self) -> bool:
        """No pages are there: none were reserved yet, or a step or a move of the pool was broken off."""
        return self._state is None

    def reserve(self, pages: int, page_size: int) -> None:
        """Make the pool at least this large. What pages hold stays; page numbers stay valid, slots follow the new page
        size."""
        if self._state is None:
            self._state = self.program.allocate(pages, page_size)
        elif pages > self.pages or page_size > self.page_size:
            pages, page_size = max(pages, self.pages), max(page_size, self.page_size)
            state, self._state = self._state, None  # a move that is broken off takes its pages with it, as a step does
            self._state = self.program.grow(state, pages, page_size)
        else:
            return
        self.pages, self.page_size = pages, page_size

    def gathered_bytes(self, batch: StepBatch) -> int:
        """What kernels have to copy together before they can read it, because it does not lie in one piece."""
        return self.program.gathered(batch.kv_len, batch.block_table, self.page_size)

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and give the logits `[R, vocab_size]` of `batch.logit_rows`, float32."""
        inputs = {
            "tokens": batch.tokens,
            "positions": batch.positions[:, None],
            "slots": batch.slots,
            "q_start": batch.q_start,
            "kv_len": batch.kv_len,
            "block_table": batch.block_table,
            "logit_rows": batch.logit_rows,
        }
        state, self._state = self._state, None  # a step that is broken off takes its pages with it
        (logits,), self._state = self.program(inputs, {} if state is None else state)
        return np.asarray(logits, np.float32)
