"""The largest logits of a vocabulary, found without sorting it."""

from __future__ import annotations

import numpy as np

from tinyllm.engine.sampling.arrays import Ids, Logits

_LOWEST = np.finfo(np.float32).min
_GROUPS = 64


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
