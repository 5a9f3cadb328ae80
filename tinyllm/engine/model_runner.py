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

    def reserve(self, pages: int, page_size: int) -> None:
        """Make the pool at least this large, in pages and in tokens of a page.

        What pages hold stays, and page numbers stay valid; slots follow the new page size. Where a step or a move of
        the pool was broken off, the pool is made anew, of this size and empty.
        """
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
        """How many bytes kernels have to copy together before they can read them, because a sequence's pages do not lie
        in one piece."""
        if batch.block_table.shape[1] == 1:
            return 0
        return self.program.gathered(batch.kv_len, batch.block_table, self.page_size)

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and return the logits `[R, vocab_size]` of `batch.logit_rows`, float32.

        Raises whatever a kernel raises; the pool is lost then, as a step consumes its pages.
        """
        inputs = {
            "tokens": batch.tokens,
            "positions": batch.positions[:, None],
            "slots": batch.slots,
            "q_start": batch.q_start,
            "kv_len": batch.kv_len,
            "block_table": batch.block_table,
            "logit_rows": batch.logit_rows,
        }
        state, self._state = self._state, None
        (logits,), self._state = self.program(inputs, {} if state is None else state)
        return np.asarray(logits, np.float32)
