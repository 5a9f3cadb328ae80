"""How far one model is from another on a text: the divergence of what they expect next, token by token.

Source: Kullback and Leibler 1951, "On Information and Sufficiency".
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.sampling.logprobs import log_sums
from tinyllm.engine.scoring import Progress, TextLogprobs, Window, token_logprobs, window_logits
from tinyllm.graph.program import Program

BLOCK_LOGITS = 2**20
"""Most logits that are held in float64 at a time, several arrays of them."""


@dataclass(frozen=True, order=True)
class Difference:
    """What two models say of a token of the text, and how far they are apart there. Probabilities are natural
    logarithms; `likeliest` is the token that a model holds to be likeliest, with its own."""

    divergence: float
    position: int
    token_id: int
    logprob_a: float
    logprob_b: float
    likeliest_a: tuple[int, float]
    likeliest_b: tuple[int, float]


@dataclass(frozen=True)
class Comparison:
    """Two models on a text.

    divergences: `KL(A || B)` in nats for each token that was scored, float64 `[scored]`. agreement: the share of tokens
    for which both hold the same next token to be likeliest. worst: the tokens of the largest divergences, the largest
    first.
    """

    a: TextLogprobs
    b: TextLogprobs
    divergences: NDArray[np.float64]
    agreement: float
    worst: list[Difference]


def compare(
    a: Program,
    b: Program,
    vocab_size: int,
    token_ids: list[int],
    windows: list[Window],
    worst: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Two models of one vocabulary on a text, in the windows of `scoring`.

    Args:
        worst: how many of the largest differences to keep.
        progress: called with (tokens compared so far, tokens of the text).
    """
    logprobs = np.full((2, len(token_ids)), np.nan)
    divergences, agreed, heap = list[NDArray[np.float64]](), 0, list[Difference]()
    steps = (window_logits(program, vocab_size, token_ids, windows) for program in (a, b))
    size = max(1, BLOCK_LOGITS // vocab_size)
    for (about, logits_a), (_, logits_b) in zip(*steps, strict=True):
        for row in range(0, len(logits_a), size):
            block = np.stack([logits_a[row : row + size], logits_b[row : row + size]]).astype(np.float64)
            start = about + row
            tokens = token_ids[start : start + block.shape[1]]
            logprobs[:, start : start + len(tokens)] = [token_logprobs(each, tokens) for each in block]
            block -= log_sums(block)[..., None]
            likeliest = block.argmax(axis=-1)
            agreed += int(np.count_nonzero(likeliest[0] == likeliest[1]))
            divergences.append(divergence(*block))
            found = _differences(start, tokens, logprobs, divergences[-1], block, likeliest)
            heap = heapq.nlargest(worst, [*heap, *found])
        if progress is not None:
            progress(about + len(logits_a), len(token_ids))
    every = np.concatenate(divergences)
    text_a, text_b = (TextLogprobs(token_ids, each) for each in logprobs)
    return Comparison(text_a, text_b, every, agreed / len(every), heap)


def divergence(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """`KL(A || B)` in nats, `[R]`, of log probabilities `[R, V]`: the sum of `p_a * (log p_a - log p_b)` over tokens,
    at least 0. A token that A holds to be impossible counts nothing."""
    weights = np.exp(a)
    with np.errstate(invalid="ignore"):  # of two tokens that are impossible for both
        terms = np.where(weights > 0, weights * (a - b), 0.0)
    least: NDArray[np.float64] = np.maximum(terms.sum(axis=-1), 0.0)  # rounding may take it below
    return least


def _differences(
    start: int,
    tokens: list[int],
    logprobs: NDArray[np.float64],
    divergences: NDArray[np.float64],
    block: NDArray[np.float64],
    likeliest: NDArray[Any],
) -> list[Difference]:
    return [
        Difference(
            float(divergences[row]),
            start + row,
            token,
            float(logprobs[0, start + row]),
            float(logprobs[1, start + row]),
            (int(likeliest[0, row]), float(block[0, row, likeliest[0, row]])),
            (int(likeliest[1, row]), float(block[1, row, likeliest[1, row]])),
        )
        for row, token in enumerate(tokens)
    ]
