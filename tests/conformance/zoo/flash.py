"""Attention by blocks of keys, as flash attention has it (Dao et al. 2022, arXiv:2205.14135): with fields for what may
be done in another way, right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from itertools import pairwise
from typing import Any

import numpy as np

from tests.conformance.zoo.attention import visible
from tests.conformance.zoo.mutant import Mutant, wide

Change = Callable[..., Any]


def same(array: Any, *_: Any) -> Any:
    """The array as it is."""
    return array


def capped(scores: Any, softcap: float) -> Any:
    """What the formula says."""
    return softcap * np.tanh(scores / softcap)


def scaled_scores(scores: Any, q: Any, k: Any, factor: float) -> Any:
    """The scores times the scale, after the product."""
    return scores * factor


@dataclass(frozen=True)
class Flash:
    """A kernel of each attention op. For every block of keys the sums so far are moved to the largest score so far.

    block: keys taken at once. backwards: the last block first. start: of the running maximum. unit: scores are counted
    in it; `1 / log(2)` for powers of 2. The functions get what they change and what they may need to do so:
    inputs(q, k, factor), which folds the scale into one or leaves it; scores(scores, dtype); softcap(scores, softcap);
    mask(mask); sinks(sinks, dtype, blocks); seen(seen, window); weights(weights, dtype); output(y).
    """

    block: int = 64
    backwards: bool = False
    start: float = -np.inf
    unit: float = 1.0
    inputs: Change = lambda q, k, factor: (q, k, factor)
    scores: Change = same
    softcap: Change = capped
    mask: Change = same
    sinks: Change = same
    seen: Change = same
    weights: Change = same
    output: Change = same
    groups: Change = lambda kv, groups: np.repeat(kv, groups, axis=-3)
    sequence: Change = same

    def sdpa(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        mask: Any = None,
        sinks: Any = None,
        scale: float | None = None,
        causal: bool = False,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Any:
        """The op of that name."""
        seen = self.seen(visible(q.shape[-2], k.shape[-2], causal, window), window)
        return self.attend(q, k, v, seen, mask, None if sinks is None else sinks[..., None, None], scale, softcap)

    def gqa(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        mask: Any = None,
        key_mask: Any = None,
        kv_lengths: Any = None,
        sinks: Any = None,
        scale: float | None = None,
        causal: bool = False,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Any:
        """The op of that name."""
        k, v = (self.groups(a, q.shape[-3] // a.shape[-3]) for a in (k, v))
        end = None if kv_lengths is None else kv_lengths.astype(np.int64)[..., None, None, None]
        seen = self.seen(visible(q.shape[-2], k.shape[-2], causal, window, end), window)
        if key_mask is not None:
            seen = seen & self.mask(key_mask)[..., None, None, :]
        return self.attend(q, k, v, seen, mask, None if sinks is None else sinks[:, None, None], scale, softcap)

    def paged_attention(
        self,
        q: Any,
        k_pages: Any,
        v_pages: Any,
        q_start: Any,
        kv_len: Any,
        block_table: Any,
        *,
        sinks: Any = None,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Any:
        """The op of that name, one sequence after the other."""
        y = np.zeros((*q.shape[:2], v_pages.shape[-1]), q.dtype)
        page, sinks = k_pages.shape[2], None if sinks is None else sinks[:, None, None]
        for number, (first, last) in enumerate(pairwise(q_start.tolist())):
            number, keys = self.sequence((number, int(kv_len[number])), last - first, page)
            if first == last or not keys:
                continue
            table = block_table[number, : -(-keys // page)]
            k, v = (
                self.groups(
                    np.swapaxes(p[table], 0, 1).reshape(p.shape[1], len(table) * page, -1 if p.size else p.shape[3]),
                    q.shape[1] // p.shape[1],
                )[:, :keys]
                for p in (k_pages, v_pages)
            )
            seen = self.seen(visible(last - first, keys, True, window), window)
            new = self.attend(np.swapaxes(q[first:last], 0, 1), k, v, seen, None, sinks, scale, softcap)
            y[first:last] = np.swapaxes(new, 0, 1)
        return y

    def attend(
        self, q: Any, k: Any, v: Any, seen: Any, mask: Any, sinks: Any, scale: float | None, softcap: float | None
    ) -> Any:
        """softmax(q k^T) v over the keys that are seen."""
        dtype, keys = q.dtype, k.shape[-2]
        exp = np.exp if self.unit == 1 else np.exp2
        q, k, v = wide(q), wide(k), wide(v)
        if mask is not None:
            mask = self.mask(np.broadcast_to(mask, (*mask.shape[:-1], keys)))
            seen = seen & (mask if mask.dtype == bool else mask > -np.inf)
            mask = None if mask.dtype == bool else mask.astype(np.result_type(q.dtype, np.float32))
        used = np.any(seen, axis=-2)[..., None]  # 0 * NaN is NaN
        k, v = np.where(used, k, 0), np.where(used, v, 0)
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        q, k, factor = self.inputs(q, k, factor if softcap is not None else factor * self.unit)
        scores_of = partial(self._scores, q, k, factor, softcap, mask, seen, dtype)
        y, total, top = (
            0.0,
            0.0,
            np.full((*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), q.shape[-2], 1), self.start, q.dtype),
        )
        starts = range(0, keys, self.block)
        sinks = None if sinks is None else np.asarray(self.sinks(sinks, dtype, len(starts))).astype(q.dtype) * self.unit
        for start in reversed(starts) if self.backwards else starts:
            part = slice(start, start + self.block)
            scores = scores_of(part)
            largest = np.maximum(top, scores.max(axis=-1, keepdims=True))
            shift = np.where(largest > -np.inf, largest, 0)
            weights, kept = exp(scores - shift), exp(top - shift)
            total = total * kept + weights.sum(axis=-1, keepdims=True)
            y = y * kept + self.weights(weights, dtype) @ v[..., part, :]
            top = largest
        if not keys:
            y = np.zeros((*np.broadcast_shapes(top.shape[:-2], v.shape[:-2]), q.shape[-2], v.shape[-1]), q.dtype)
        elif sinks is not None:
            shift = np.maximum(top, sinks)
            shift = np.where(shift > -np.inf, shift, 0)
            total, y = total * exp(top - shift) + exp(sinks - shift), y * exp(top - shift)
        return self.output((y / np.where(np.asarray(total) > 0, total, 1)).astype(dtype))

    def _scores(self, q: Any, k: Any, factor: Any, softcap: Any, mask: Any, seen: Any, dtype: Any, part: slice) -> Any:
        scores = self.scores(q @ np.swapaxes(k[..., part, :], -1, -2) * factor, dtype)
        if softcap is not None:
            scores = self.softcap(scores, softcap) * self.unit
        if mask is not None:
            scores = scores + mask[..., part] * self.unit
        return np.where(seen[..., part], scores, -np.inf)

    def kernel(self, op: str, right: Flash | None = None) -> Any:
        """The op's function; with `right` a function that is this one where it is told a mistake, and else that."""
        wrong = getattr(self, op)

        @wraps(wrong)
        def run(*args: Any, mistake: str | None = None, **kwargs: Any) -> Any:
            return (wrong if mistake or right is None else getattr(right, op))(*args, **kwargs)

        return run


def flash_mutant(name: str, op: str, about: str, wrong: Flash, **settings: Any) -> Mutant:
    """A mutant that is right but for how `wrong` differs from `Flash()`."""
    return Mutant(name, op, about, wrong.kernel(op, Flash(block=wrong.block)), **settings)
