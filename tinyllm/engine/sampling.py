"""From logits to a token, on the host. The noise depends on seed and position alone, never on neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.grammar import Grammar
from tinyllm.errors import invalid
from tinyllm.spec.attribute_checks import Check, boolean, instance, integer, number, optional

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]
_BLOCK = 256
_LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when to stop. temperature 0 takes the most likely token.

    top_k keeps the k most likely, top_p the smallest set whose probability reaches p, min_p those with at least min_p
    times the highest probability; None: off. logprobs: None, or how many alternatives to report.

    The logits change in this order. repetition_penalty divides (above 0) or multiplies (below) those of tokens already
    there, prompt included (Keskar et al. 2019, arXiv:1909.05858). A token that was generated c > 0 times loses c *
    frequency_penalty + presence_penalty (OpenAI's API). logit_bias, token id to number, is added.

    A reply ends before a stop string, a token of the model that ends replies (not with ignore_eos, where it is a token
    like any other), or one of stop_token_ids. None of these ends it before min_tokens tokens: such a token is not
    chosen, and stop strings are looked for in the text of the min_tokens-th token and those after it. With a grammar a
    token of the model that ends replies is chosen only where the grammar allows the end; where it allows nothing else
    the reply ends, also before min_tokens. Stop strings and stop_token_ids that are text cut a reply anywhere, as
    max_tokens does: such a reply may be no whole word of the grammar.
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
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        penalty = _within(-2, 2)
        checks: dict[str, Check] = {
            "max_tokens": integer(1),
            "temperature": number(minimum=0),
            "top_p": optional(_within(0, 1, above=True)),
            "top_k": optional(integer(1)),
            "min_p": optional(_within(0, 1)),
            "repetition_penalty": number(above=0),
            "seed": optional(integer(0)),
            "logprobs": optional(integer(0)),
            "frequency_penalty": penalty,
            "presence_penalty": penalty,
            "min_tokens": integer(0),
            "ignore_eos": boolean,
            "grammar": optional(instance(Grammar)),
        }
        for name, check in checks.items():
            expected = check(getattr(self, name))
            if expected:
                raise invalid("sampling", name, expected, repr(getattr(self, name)))
        if self.min_tokens > self.max_tokens:
            raise invalid("sampling", "min_tokens", f"at most max_tokens ({self.max_tokens})", self.min_tokens)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, (tuple, list)) or not all(isinstance(s, str) and s for s in stop):
            raise invalid("sampling", "stop", "a text or a list of texts, none empty", repr(self.stop))
        object.__setattr__(self, "stop", tuple(stop))
        wrong = integer(0)
        ids = self.stop_token_ids
        if not isinstance(ids, (tuple, list, set, frozenset)) or any(wrong(i) for i in ids):
            raise invalid("sampling", "stop_token_ids", "a list of token ids", repr(ids))
        object.__setattr__(self, "stop_token_ids", tuple(map(int, ids)))
        object.__setattr__(self, "logit_bias", _pairs(self.logit_bias))

    def check_vocabulary(self, size: int) -> None:
        """Raises `InvalidInputError` where a token id is not of a vocabulary of `size`."""
        for name, ids in (("logit_bias", self._bias[0]), ("stop_token_ids", self.stop_token_ids)):
            for token in ids:
                if token >= size:
                    raise invalid("sampling", name, f"token ids from 0 to {size - 1}", int(token))

    @property
    def counts_tokens(self) -> bool:
        """Whether the choice depends on which tokens were there before."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0 or self.presence_penalty != 0

    @cached_property
    def _bias(self) -> tuple[Ids, Logits]:
        pairs = dict(self.logit_bias)
        return np.array([*pairs], np.int64), np.array([*pairs.values()], np.float32)


def _within(low: float, high: float, above: bool = False) -> Check:
    check = number(above=low) if above else number(minimum=low)
    expected = f"a number {'above' if above else 'from'} {low} {'and at most' if above else 'to'} {high}"
    return lambda value: None if check(value) is None and value <= high else expected


def _pairs(bias: object) -> tuple[tuple[int, float], ...]:
    """`logit_bias` in its hashable form."""
    wrong_id, wrong_bias = integer(0), _within(-100, 100)
    expected = "a mapping of token ids to numbers from -100 to 100"
    try:
        pairs = dict(bias) if isinstance(bias, (Mapping, tuple, list)) else None
    except (TypeError, ValueError):
        pairs = None
    if pairs is None:
        raise invalid("sampling", "logit_bias", expected, repr(bias))
    for token, value in pairs.items():
        if wrong_id(token) or wrong_bias(value):
            raise invalid("sampling", "logit_bias", expected, f"{token!r}: {value!r}")
    return tuple((int(token), float(value)) for token, value in pairs.items())


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural log probability under the model, before temperature and filters, and the most likely
    alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenCounts:
    """Which tokens are in a sequence, and how often each was generated."""

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
        """Each token once."""
        return self._ids[: len(self._slots)]

    @property
    def generated(self) -> Logits:
        """How often each of `ids` was generated; 0 where it is of the prompt alone."""
        return self._counts[: len(self._slots)]


def adjust(
    logits: Logits,
    params: SamplingParams,
    counts: TokenCounts | None = None,
    allowed: NDArray[np.bool_] | None = None,
    banned: Iterable[int] = (),
) -> Logits:
    """A copy of logits `[V]` with penalties and bias applied; -inf where a token is banned or not allowed, as no id
    past the mask is."""
    if allowed is None:
        logits = logits.copy()
    else:
        size = min(allowed.size, logits.size)
        given, logits = logits, np.full_like(logits, -np.inf)
        np.copyto(logits[:size], given[:size], where=allowed[:size])
    if counts is not None and params.counts_tokens:
        there = logits[counts.ids]
        if params.repetition_penalty != 1.0:
            penalty = np.float32(
                min(max(params.repetition_penalty, 1e-30), 1e30)
            )  # as with temperature: the largest stays a number
            there = np.where(there > 0, there / penalty, there * penalty)
        said = counts.generated
        there -= np.float32(params.frequency_penalty) * said + np.float32(params.presence_penalty) * (said > 0)
        logits[counts.ids] = there
    if params.logit_bias:
        ids, bias = params._bias
        logits[ids] += bias
    banned = [token for token in banned if token < logits.size]
    if banned:
        logits[banned] = -np.inf
    return logits


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
    top = logits[best]
    if params.top_k is not None and params.top_k < logits.size:
        kept = _largest(logits, params.top_k)
        weights = _weights(logits[kept], top, params.temperature)
        total = float(weights.sum())
    else:
        # within what float32 holds, so that neither 0 / 0 nor inf / inf comes up; the draw is the same
        divisor = np.float32(min(max(params.temperature, 1e-30), 1e30))
        with np.errstate(over="ignore"):
            wide = np.exp((logits - top) / divisor)
        if params.top_p is None or params.top_p == 1:
            if not params.min_p:
                return _draw_from_all(wide, noise)
            kept = np.flatnonzero(wide >= np.float32(params.min_p * 0.999))
            total = 0.0
        else:
            total = float(wide.sum())
            kept = _enough(wide, params.top_p, total)
        weights = _weights(logits[kept], top, params.temperature)
    if params.top_p is not None and params.top_p < 1:
        likeliest = np.argsort(-weights, kind="stable")
        reached = weights[likeliest].cumsum()
        nucleus = np.sort(likeliest[: int(np.searchsorted(reached, params.top_p * total)) + 1])
        kept, weights = kept[nucleus], weights[nucleus]
    if params.min_p:
        near = weights >= params.min_p * weights.max()
        kept, weights = kept[near], weights[near]
    return int(kept[_draw(weights, noise)])


def _weights(logits: Logits, top: np.float32, temperature: float) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.exp((logits.astype(np.float64) - top) / temperature)


def _draw(weights: NDArray[np.float64], noise: float) -> int:
    cumulative = weights.cumsum()
    return min(int(np.searchsorted(cumulative, noise * cumulative[-1], side="right")), weights.size - 1)


def _draw_from_all(weights: Logits, noise: float) -> int:
    """As `_draw`, by way of the sums of blocks: a running sum over a whole vocabulary is slow."""
    whole = weights.size // _BLOCK * _BLOCK
    sums = np.append(weights[:whole].reshape(-1, _BLOCK).sum(axis=1), weights[whole:].sum()).cumsum(dtype=np.float64)
    wanted = noise * sums[-1]
    block = min(int(np.searchsorted(sums, wanted, side="right")), sums.size - 1)
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    before = sums[block - 1] if block else 0.0
    # the last weight above 0 ends the block: rounding of the two sums must not lead past it
    last = int(np.searchsorted(inside, inside[-1]))
    return block * _BLOCK + min(int(np.searchsorted(inside, wanted - before, side="right")), last)


def _largest(logits: Logits, count: int) -> Ids:
    """Ids, in order, of the `count` largest and whatever equals the smallest of these; never one of -inf."""
    groups = logits.size // 64
    bound = _LOWEST
    if count <= groups // 2:  # as many groups have a maximum of at least the bound, so as many logits are
        maxima = logits[: groups * 64].reshape(64, groups).max(axis=0)
        bound = max(bound, np.partition(maxima, -count)[-count])
    kept = np.flatnonzero(logits >= bound)
    if kept.size > count:
        values = logits[kept]
        kept = kept[values >= np.partition(values, -count)[-count]]
    return kept


def _enough(weights: Logits, share: float, total: float) -> Ids:
    """Ids, in order, of the largest weights that together are at least `share` of the total; maybe more of them than
    are needed."""
    rest = (1 - share) * total / weights.size  # those below it are together less than what may be left out
    for least in (2.0**-6, 2.0**-12):
        if least > rest:
            kept = np.flatnonzero(weights >= np.float32(least))
            if weights[kept].sum(dtype=np.float64) > share * total * 1.00001:
                return kept
    return np.flatnonzero(weights >= np.float32(rest * 0.99))


def log_probability(logits: Logits, token_id: int, alternatives: int) -> TokenLogprob:
    """The log probability of a token under logits `[V]`, with the `alternatives` most likely."""
    top = logits.max()
    total = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
    best = _largest(logits, min(alternatives, logits.size)) if alternatives else np.array([], np.int64)
    best = best[np.argsort(-logits[best], kind="stable")][:alternatives]
    return TokenLogprob(
        token_id, float(logits[token_id]) - total, tuple((int(i), float(logits[i]) - total) for i in best)
    )
