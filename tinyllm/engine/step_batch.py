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
    kv_len `[B]`: its keys after this step. block_table `[B, M]`: its pages. logit_rows `[R]`: the tokens whose logits
    are wanted.
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
    """What one sequence brings to a step: its next tokens, how many keys it holds already, its pages."""

    tokens: list[int]
    cached: int
    pages: list[int]
    all_logits: bool = False


def make_step(chunks: list[Chunk], page_size: int) -> StepBatch:
    """Lay chunks side by side. Each sequence asks for the logits of its last token, or of all of its chunk."""
    lengths = [len(c.tokens) for c in chunks]
    ends = np.cumsum(lengths, dtype=np.int32)
    positions = [np.arange(c.cached, c.cached + n, dtype=np.int32) for c, n in zip(chunks, lengths, strict=True)]
    slots = [
        np.asarray(c.pages, np.int32)[p // page_size] * page_size + p % page_size
        for c, p in zip(chunks, positions, strict=True)
    ]
    rows = [
        np.arange(end - n if c.all_logits else end - 1, end, dtype=np.int32)
        for c, n, end in zip(chunks, lengths, ends, strict=True)
    ]
    table = np.full((len(chunks), max(len(c.pages) for c in chunks)), -1, np.int32)
    for row, chunk in zip(table, chunks, strict=True):
        row[: len(chunk.pages)] = chunk.pages
    return StepBatch(
        tokens=np.asarray([t for c in chunks for t in c.tokens], np.int32),
        positions=np.concatenate(positions),
        slots=np.concatenate(slots).astype(np.int32),
        q_start=np.concatenate([[0], ends]).astype(np.int32),
        kv_len=np.asarray([c.cached + n for c, n in zip(chunks, lengths, strict=True)], np.int32),
        block_table=table,
        logit_rows=np.concatenate(rows),
    )
