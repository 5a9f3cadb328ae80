"""Runs steps of a bound program and owns its page pool.

A step has one form, for one sequence as for a crowd: prefill, decode and chunks differ in numbers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tinyllm.graph.observe import Observe
from tinyllm.graph.program import Pages, Program

Indices = NDArray[np.int32]


@dataclass(frozen=True)
class StepBatch:
    """Tokens of several sequences on one flat axis; all int32.

    tokens, positions, slots `[T]`: the token, its place in its sequence, and where its K and V go
    (`page * page_size + offset`). lengths `[T]`: by how long a sequence the token's keys turn, where a model's rotary
    embeddings go by that. q_start `[B + 1]`: tokens `q_start[b]` to `q_start[b + 1] - 1` are sequence b's. kv_len
    `[B]`: its keys after this step. block_table `[B, M]`: its pages, then -1. logit_rows `[R]`: the tokens whose logits
    are wanted, maybe none. state_rows `[B]`: the row of a recurrent state that each sequence has.
    """

    tokens: Indices
    positions: Indices
    lengths: Indices
    slots: Indices
    q_start: Indices
    kv_len: Indices
    block_table: Indices
    logit_rows: Indices
    state_rows: Indices


@dataclass(frozen=True)
class Chunk:
    """What one sequence brings to a step: its next tokens, how many keys it holds already, its pages, how many of these
    tokens, from the last, have their logits wanted, and the length of the whole of which these tokens are a part, None
    where they are the last of it. row: of a recurrent state."""

    tokens: list[int]
    cached: int
    pages: list[int]
    rows: int = 1
    whole: int | None = None
    row: int = 0


def make_step(chunks: list[Chunk], page_size: int) -> StepBatch:
    """Lay chunks side by side. Lists are joined and made arrays at the end: for the few numbers of a decode step that
    is many times faster than arrays from the start."""
    tokens: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    slots: list[int] = []
    logit_rows: list[int] = []
    q_start, kv_len = [0], []
    for chunk in chunks:
        keys = chunk.cached + len(chunk.tokens)
        places = range(chunk.cached, keys)
        tokens += chunk.tokens
        positions += places
        whole = keys if chunk.whole is None else chunk.whole
        lengths += [max(whole, place + 1) for place in places]
        slots += [chunk.pages[place // page_size] * page_size + place % page_size for place in places]
        q_start.append(len(tokens))
        kv_len.append(keys)
        logit_rows += range(len(tokens) - chunk.rows, len(tokens))
    width = max(len(chunk.pages) for chunk in chunks)
    block_table = [chunk.pages + [-1] * (width - len(chunk.pages)) for chunk in chunks]
    state_rows = [chunk.row for chunk in chunks]
    columns = (tokens, positions, lengths, slots, q_start, kv_len, block_table, logit_rows, state_rows)
    return StepBatch(*(np.array(column, np.int32) for column in columns))


class ModelRunner:
    """A program with its pages. Callers deal in page numbers only; nothing else holds a reference to the pool."""

    def __init__(self, program: Program, pages: int = 0, page_size: int = 1, rows: int = 1) -> None:
        self.program = program
        self.pages, self.page_size, self.rows = pages, page_size, rows
        self._state: Pages | None = program.allocate(pages, page_size, rows) if pages else None

    def reserve(self, pages: int, page_size: int, rows: int = 1) -> None:
        """Make the pool at least this large, in pages, in tokens of a page and in rows of recurrent states.

        What pages hold stays, and page numbers stay valid; slots follow the new page size. Where a step or a move of
        the pool was broken off, the pool is made anew, of this size and empty.
        """
        if self._state is None:
            self._state = self.program.allocate(pages, page_size, rows)
        elif pages > self.pages or page_size > self.page_size or rows > self.rows:
            pages, page_size, rows = max(pages, self.pages), max(page_size, self.page_size), max(rows, self.rows)
            state, self._state = self._state, None  # a move that is broken off takes its pages with it, as a step does
            self._state = self.program.grow(state, pages, page_size, rows)
        else:
            return
        self.pages, self.page_size, self.rows = pages, page_size, rows

    def pool_bytes(self) -> tuple[int, int]:
        """What the pool takes: its pages, and its rows of recurrent states."""
        return self.program.pool_bytes(self.pages, self.page_size, self.rows)

    def gathered_bytes(self, batch: StepBatch) -> int:
        """How many bytes kernels have to copy together before they can read them, because a sequence's pages do not lie
        in one piece."""
        if batch.block_table.shape[1] == 1:
            return 0
        return self.program.gathered(batch.kv_len, batch.block_table, self.page_size)

    def step(self, batch: StepBatch, observe: Observe | None = None, values_told: bool = False) -> NDArray[np.float32]:
        """Run one step and return the logits `[R, vocab_size]` of `batch.logit_rows`, float32.

        observe: told of every node and the time that it took; values_told: and of what went in and came out.

        Raises whatever a kernel raises; the pool is lost then, as a step consumes its pages.
        """
        inputs = {
            "tokens": batch.tokens,
            "positions": batch.positions[:, None],
            "lengths": batch.lengths[:, None],
            "slots": batch.slots,
            "q_start": batch.q_start,
            "kv_len": batch.kv_len,
            "block_table": batch.block_table,
            "logit_rows": batch.logit_rows,
            "state_rows": batch.state_rows,
        }
        run = self.program if observe is None else partial(self.program, observe=observe, values_told=values_told)
        state, self._state = self._state, None
        with np.errstate(all="ignore"):  # logits that are not finite are an error of their own: no warnings before it
            (logits,), self._state = run(inputs, {} if state is None else state)
        return np.asarray(logits, np.float32)
