"""The one form a step has, for one sequence as for a crowd: prefill, decode and chunks differ in numbers alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]


@dataclass(frozen=True)
class StepBatch:
    """Tokens of several sequences on one flat axis; all int32.

    tokens, positions, slots `[T]`: the token, its place in its sequence, and where its K and V go
    (`page * page_size + offset`). q_start `[B + 1]`: tokens `q_start[b]` to `q_start[b + 1] - 1` are sequence b's.
    kv_len `[B]`: its keys after this step. block_table `[B, M]`: its pages, then -1. logit_rows `[R]`: the tokens whose
    logits are wanted, maybe none.
    """

    tokens: Indices
    positions: Indices
    slots: Indices
    q_start: Indices
    kv_len: Indices
    block_table: Indices
    logit_rows: Indices


@dataclass(frozen=True)
class Chunk:
    """What one sequence brings to a step: its next tokens, how many keys it holds already, its pages, and how many of
    these tokens, from the last, have their logits wanted."""

    tokens: list[int]
    cached: int
    pages: list[int]
    rows: int = 1


def make_step(chunks: list[Chunk], page_size: int) -> StepBatch:
    """Lay chunks side by side. Lists are joined and made arrays at the end: for the few numbers of a decode step that
    is many times faster than arrays from the start."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    logit_rows: list[int] = []
    q_start, kv_len = [0], []
    for chunk in chunks:
        keys = chunk.cached + len(chunk.tokens)
        places = range(chunk.cached, keys)
        tokens += chunk.tokens
        positions += places
        slots += [chunk.pages[place // page_size] * page_size + place % page_size for place in places]
        q_start.append(len(tokens))
        kv_len.append(keys)
        logit_rows += range(len(tokens) - chunk.rows, len(tokens))
    width = max(len(chunk.pages) for chunk in chunks)
    block_table = [chunk.pages + [-1] * (width - len(chunk.pages)) for chunk in chunks]
    columns = (tokens, positions, slots, q_start, kv_len, block_table, logit_rows)
    return StepBatch(*(np.array(column, np.int32) for column in columns))
