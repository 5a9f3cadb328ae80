"""What changes logits before a token is drawn: penalties, biases, masks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.sampling.arrays import Logits
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sampling.token_counts import TokenCounts


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
