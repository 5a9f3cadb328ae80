"""Log probabilities of tokens, as they are reported beside a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.sampling.params import Logits
from tinyllm.engine.sampling.sample import largest


@dataclass(frozen=True)
class TokenLogprob:
    """The natural log probability of a token under the model, before temperature and filters, with the most likely
    alternatives as (token id, log probability). rank: 1 for the likeliest token."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 1


def log_sums(logits: NDArray[Any]) -> NDArray[np.float64]:
    """What is taken from logits `[..., V]` to make log probabilities of them: the logarithm of the sum of their
    exponentials, `[...]`."""
    maximum = logits.max(axis=-1, keepdims=True)
    sums: NDArray[np.float64] = np.log(np.exp(logits - maximum).sum(axis=-1, dtype=np.float64))
    sums += maximum[..., 0]
    return sums


def log_probability(logits: Logits, token_id: int, alternatives: int) -> TokenLogprob:
    """The log probability of a token under logits `[V]`, with the `alternatives` most likely tokens."""
    log_sum = float(log_sums(logits))
    best = largest(logits, min(alternatives, logits.size)) if alternatives else np.array([], np.int64)
    best = best[np.argsort(-logits[best], kind="stable")][:alternatives]
    top = tuple((int(token), float(logits[token]) - log_sum) for token in best)
    rank = 1 + int(np.count_nonzero(logits > logits[token_id]))
    return TokenLogprob(token_id, float(logits[token_id]) - log_sum, top, rank)
