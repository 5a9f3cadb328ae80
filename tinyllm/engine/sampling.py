"""From logits to a token, on the host. The noise depends on seed and position alone, never on neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyllm.checks import integer, number, optional
from tinyllm.errors import invalid

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when to stop. temperature 0 takes the most likely token.

    top_k keeps the k most likely, top_p the smallest set whose probability reaches p, min_p those with at least min_p times
    the highest probability; None: off. repetition_penalty divides (above 0) or multiplies (below) the logits of tokens already
    there, prompt included (Keskar et al. 2019, arXiv:1909.05858). logprobs: None, or how many alternatives to report.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        share = number(minimum=0)
        checks = {
            "max_tokens": integer(1), "temperature": number(minimum=0), "top_p": optional(number(above=0)), "top_k": optional(integer(1)),
            "min_p": optional(share), "repetition_penalty": number(above=0), "seed": optional(integer(0)), "logprobs": optional(integer(0)),
        }  # fmt: skip
        for name, check in checks.items():
            expected = check(getattr(self, name))
            if expected:
                raise invalid("sampling", name, expected, repr(getattr(self, name)))
        for name in ("top_p", "min_p"):
            if (getattr(self, name) or 0) > 1:
                raise invalid("sampling", name, "a number of at most 1", getattr(self, name))
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, (tuple, list)) or not all(isinstance(s, str) and s for s in stop):
            raise invalid("sampling", "stop", "a text or a list of texts, none empty", repr(self.stop))
        object.__setattr__(self, "stop", tuple(stop))


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural log probability under the model, before temperature and filters, and the most likely alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: Logits, params: SamplingParams, seed: int, position: int, seen: Sequence[int] = ()) -> int:
    """Choose a token from logits `[V]`.

    Args:
        seed, position: fix the noise.
        seen: token ids so far, for the repetition penalty.
    """
    if params.repetition_penalty != 1.0 and len(seen):
        logits = _penalised(logits, np.unique(np.asarray(seen)), params.repetition_penalty)
    if params.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64)
    scaled = (scaled - scaled.max()) / params.temperature
    weights = np.exp(scaled)
    if params.top_k is not None and params.top_k < weights.size:
        weights[weights < np.partition(weights, -params.top_k)[-params.top_k]] = 0
    if params.top_p is not None and params.top_p < 1:
        weights = _nucleus(weights, params.top_p)
    if params.min_p:
        weights[weights < params.min_p * weights.max()] = 0
    cumulative = weights.cumsum()
    noise = np.random.Generator(np.random.Philox(key=[seed, position])).random()
    return int(np.searchsorted(cumulative, noise * cumulative[-1], side="right").clip(max=weights.size - 1))


def _penalised(logits: Logits, seen: NDArray[np.int64], penalty: float) -> Logits:
    logits = logits.copy()
    there = logits[seen]
    logits[seen] = np.where(there > 0, there / penalty, there * penalty)
    return logits


def _nucleus(weights: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Zero all but the most likely tokens that together reach `share`; looks at the largest 1024 first, as sorting all is slow."""
    wanted = share * weights.sum()
    count = min(1024, weights.size)
    while True:
        largest = np.argpartition(weights, -count)[-count:]
        largest = largest[np.argsort(-weights[largest], kind="stable")]
        reached = weights[largest].cumsum()
        if count == weights.size or reached[-1] >= wanted:
            break
        count = weights.size
    kept = largest[: int(np.searchsorted(reached, wanted)) + 1]
    filtered = np.zeros_like(weights)
    filtered[kept] = weights[kept]
    return filtered


def log_probability(logits: Logits, token_id: int, alternatives: int) -> TokenLogprob:
    """The log probability of a token under logits `[V]`, with the `alternatives` most likely."""
    wide = logits.astype(np.float64)
    top = wide.max()
    total = top + np.log(np.exp(wide - top).sum())
    best = np.argsort(-wide, kind="stable")[:alternatives]
    return TokenLogprob(token_id, float(wide[token_id] - total), tuple((int(i), float(wide[i] - total)) for i in best))
