"""What changes logits before a token is drawn: penalties, with the counts that they go by, biases, masks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.sampling.params import Ids, Logits, SamplingParams


class TokenCounts:
    """The tokens of one sequence, each once, with the number of times that it was generated."""

    def __init__(self, prompt: Iterable[int] = ()) -> None:
        self._ids = np.unique(np.fromiter(prompt, np.int64))
        self._slots = {int(token): slot for slot, token in enumerate(self._ids)}
        self._counts = np.zeros(len(self._ids), np.float32)

    def add(self, token: int) -> None:
        """Count a generated token."""
        slot = self._slots.setdefault(token, len(self._slots))
        if slot >= len(self._ids):
            more = max(64, len(self._ids))
            self._ids, self._counts = np.pad(self._ids, (0, more)), np.pad(self._counts, (0, more))
        self._ids[slot] = token
        self._counts[slot] += 1

    @property
    def ids(self) -> Ids:
        """Each token of the sequence once, `[n]`."""
        return self._ids[: len(self._slots)]

    @property
    def generated(self) -> Logits:
        """How often each of `ids` was generated, float32 `[n]`; 0 for a token of the prompt alone."""
        return self._counts[: len(self._slots)]


def adjust(
    logits: Logits,
    params: SamplingParams,
    counts: TokenCounts | None = None,
    allowed: NDArray[np.bool_] | None = None,
    banned: Iterable[int] = (),
) -> Logits:
    """A copy of logits `[V]` with penalties and biases applied. It is -inf where a token is banned or not allowed; no
    id past the end of the mask is allowed."""
    if allowed is None:
        adjusted = logits.copy()
    else:
        size = min(allowed.size, logits.size)
        adjusted = np.full_like(logits, -np.inf)
        np.copyto(adjusted[:size], logits[:size], where=allowed[:size])
    if counts is not None and params.counts_tokens:
        values = adjusted[counts.ids]
        if params.repetition_penalty != 1.0:
            # as with temperature: held within what float32 can do, so that the largest logit stays a number
            penalty = np.float32(min(max(params.repetition_penalty, 1e-30), 1e30))
            values = np.where(values > 0, values / penalty, values * penalty)
        times = counts.generated
        values -= np.float32(params.frequency_penalty) * times + np.float32(params.presence_penalty) * (times > 0)
        adjusted[counts.ids] = values
    if params.logit_bias:
        ids, biases = params.bias_arrays
        adjusted[ids] += biases
    in_range = [token for token in banned if token < adjusted.size]
    if in_range:
        adjusted[in_range] = -np.inf
    return adjusted
