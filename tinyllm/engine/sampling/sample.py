"""The draw of a token. Its noise depends on seed and position alone, never on who else is in the batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.sampling.params import Ids, Logits, SamplingParams

_BLOCK = 256
_LOWEST = np.finfo(np.float32).min
_GROUPS = 64


def sample(logits: Logits, params: SamplingParams, seed: int, position: int, best: int | None = None) -> int:
    """Choose a token from logits `[V]`, as `adjust` gives them.

    Args:
        seed, position: fix the noise.
        best: where the largest logit is, if known.
    """
    best = int(logits.argmax()) if best is None else best
    if params.temperature == 0:
        return best
    noise = float(np.random.Generator(np.random.Philox(key=[seed, position])).random())
    maximum = logits[best]
    if params.top_k is not None and params.top_k < logits.size:
        kept = largest(logits, params.top_k)
        weights = _weights(logits[kept], maximum, params.temperature)
        total = float(weights.sum())
    else:
        # held within what float32 can do, so that neither 0 / 0 nor inf / inf comes up; the draw is the same
        divisor = np.float32(min(max(params.temperature, 1e-30), 1e30))
        with np.errstate(over="ignore"):
            all_weights = np.exp((logits - maximum) / divisor)
        if params.top_p is None or params.top_p == 1:
            if not params.min_p:
                return _draw_from_all(all_weights, noise)
            kept = np.flatnonzero(all_weights >= np.float32(params.min_p * 0.999))
            total = 0.0
        else:
            total = float(all_weights.sum())
            kept = _enough(all_weights, params.top_p, total)
        weights = _weights(logits[kept], maximum, params.temperature)
    if params.top_p is not None and params.top_p < 1:
        likeliest = np.argsort(-weights, kind="stable")
        reached = weights[likeliest].cumsum()
        nucleus = np.sort(likeliest[: int(np.searchsorted(reached, params.top_p * total)) + 1])
        kept, weights = kept[nucleus], weights[nucleus]
    if params.min_p:
        near_best = weights >= params.min_p * weights.max()
        kept, weights = kept[near_best], weights[near_best]
    return int(kept[_draw(weights, noise)])


def largest(logits: Logits, count: int) -> Ids:
    """The ids, in order, of the `count` largest logits and of all that equal the smallest of these; never one whose
    logit is -inf."""
    columns = logits.size // _GROUPS
    bound = _LOWEST
    if count <= columns // 2:  # `count` columns have a maximum of at least the bound, so at least as many logits have
        maxima = logits[: columns * _GROUPS].reshape(_GROUPS, columns).max(axis=0)
        bound = max(bound, np.partition(maxima, -count)[-count])
    ids = np.flatnonzero(logits >= bound)
    if ids.size > count:
        values = logits[ids]
        ids = ids[values >= np.partition(values, -count)[-count]]
    return ids


def _weights(logits: Logits, maximum: np.float32, temperature: float) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.exp((logits.astype(np.float64) - maximum) / temperature)


def _draw(weights: NDArray[np.float64], noise: float) -> int:
    cumulative = weights.cumsum()
    return min(int(np.searchsorted(cumulative, noise * cumulative[-1], side="right")), weights.size - 1)


def _draw_from_all(weights: Logits, noise: float) -> int:
    """The same as `_draw`, by way of the sums of blocks: a running sum over a whole vocabulary is slow."""
    whole = weights.size // _BLOCK * _BLOCK
    sums = np.append(weights[:whole].reshape(-1, _BLOCK).sum(axis=1), weights[whole:].sum()).cumsum(dtype=np.float64)
    target = noise * sums[-1]
    block = min(int(np.searchsorted(sums, target, side="right")), sums.size - 1)
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    before = sums[block - 1] if block else 0.0
    # the last weight above 0 ends the block: rounding of the two sums must not lead past it
    last = int(np.searchsorted(inside, inside[-1]))
    return block * _BLOCK + min(int(np.searchsorted(inside, target - before, side="right")), last)


def _enough(weights: Logits, share: float, total: float) -> Ids:
    """The ids, in order, of the largest weights that together are at least `share` of the total; maybe of more than are
    needed."""
    rest = (1 - share) * total / weights.size  # those below it are together less than what may be left out
    for least in (2.0**-6, 2.0**-12):
        if least > rest:
            kept = np.flatnonzero(weights >= np.float32(least))
            if weights[kept].sum(dtype=np.float64) > share * total * 1.00001:
                return kept
    return np.flatnonzero(weights >= np.float32(rest * 0.99))
