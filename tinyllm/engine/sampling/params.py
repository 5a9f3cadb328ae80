"""The sampling settings of a request, checked, and the arrays that sampling works on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.stop_strings import StopAutomaton
from tinyllm.errors import invalid
from tinyllm.models.text.token_ids import plain
from tinyllm.spec.attribute_checks import Check, boolean, instance, integer, number, optional

Logits = NDArray[np.float32]
"""A number for each token of the vocabulary, `[V]`, or for some of them."""
Ids = NDArray[np.int64]
"""Token ids."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when to stop. temperature 0 takes the most likely token.

    max_tokens -1: as many as fit; 0: none, which gives what is told of the prompt alone.

    top_k keeps the k most likely, top_p the smallest set whose probability reaches p (0: the likeliest token alone),
    min_p those with at least min_p times the highest probability; None, and a top_k of 0 or -1: off. logprobs,
    prompt_logprobs: None, or how many alternatives to report beside each token of the reply, of the prompt.

    The logits change in this order. repetition_penalty divides (above 0) or multiplies (below) those of tokens already
    there, prompt included (Keskar et al. 2019, arXiv:1909.05858). A token that was generated c > 0 times loses c *
    frequency_penalty + presence_penalty (OpenAI's API). logit_bias, token id to number, is added.

    A reply ends before a stop string, a token of the model that ends replies (not with ignore_eos, where it is a token
    like any other), or one of stop_token_ids. A stop string may be or contain the text of a special token, which is not
    shown. None of these ends it before min_tokens tokens: such a token is not chosen, and stop strings are looked for
    in the text of the min_tokens-th token and those after it. With a grammar a token of the model that ends replies is
    chosen only where the grammar allows the end; where it allows nothing else the reply ends, also before min_tokens.
    Stop strings and stop_token_ids that are text cut a reply anywhere, as max_tokens does: such a reply may be no whole
    word of the grammar. With include_stop_str_in_output what ended the reply is part of it. skip_special_tokens:
    whether the text leaves out special tokens.

    Raises `InvalidInputError` for a setting out of range, with its name.
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
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        penalty = _within(-2, 2)
        checks: dict[str, Check] = {
            "max_tokens": integer(-1),
            "temperature": number(minimum=0),
            "top_p": optional(_within(0, 1)),
            "top_k": optional(integer(-1)),
            "min_p": optional(_within(0, 1)),
            "repetition_penalty": number(above=0),
            "seed": optional(integer(0)),
            "logprobs": optional(integer(0)),
            "prompt_logprobs": optional(integer(0)),
            "frequency_penalty": penalty,
            "presence_penalty": penalty,
            "min_tokens": integer(0),
            "ignore_eos": boolean,
            "include_stop_str_in_output": boolean,
            "skip_special_tokens": boolean,
            "grammar": optional(instance(Grammar)),
        }
        for name, check in checks.items():
            expected = check(getattr(self, name))
            if expected:
                raise invalid("sampling", name, expected, repr(getattr(self, name)))
        if self.max_tokens == -1:
            object.__setattr__(self, "max_tokens", sys.maxsize)
        if self.top_k in (0, -1):
            object.__setattr__(self, "top_k", None)
        if self.min_tokens > self.max_tokens:
            raise invalid("sampling", "min_tokens", f"at most max_tokens ({self.max_tokens})", self.min_tokens)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, (tuple, list)) or not all(isinstance(s, str) and s for s in stop):
            raise invalid("sampling", "stop", "a text or a list of texts, none empty", repr(self.stop))
        object.__setattr__(self, "stop", tuple(stop))
        wrong_id = integer(0)
        ids = plain(self.stop_token_ids)
        if not isinstance(ids, (tuple, list, set, frozenset)) or any(wrong_id(token) for token in ids):
            raise invalid("sampling", "stop_token_ids", "a list of token ids", repr(ids))
        object.__setattr__(self, "stop_token_ids", tuple(map(int, ids)))
        object.__setattr__(self, "logit_bias", _bias_pairs(self.logit_bias))

    def check_vocabulary(self, size: int) -> None:
        """Raises `InvalidInputError` where a setting names a token id that a vocabulary of `size` does not have."""
        for name, ids in (("logit_bias", self.bias_arrays[0]), ("stop_token_ids", self.stop_token_ids)):
            largest = max(ids, default=0)
            if largest >= size:
                raise invalid("sampling", name, f"token ids from 0 to {size - 1}", int(largest))

    @property
    def counts_tokens(self) -> bool:
        """Whether the choice depends on which tokens were there before."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0 or self.presence_penalty != 0

    @cached_property
    def bias_arrays(self) -> tuple[Ids, Logits]:
        """`logit_bias` as token ids `[n]` and what is added to their logits, float32 `[n]`."""
        pairs = dict(self.logit_bias)
        return np.array([*pairs], np.int64), np.array([*pairs.values()], np.float32)

    @cached_property
    def stop_automaton(self) -> StopAutomaton:
        """What finds `stop` in a text. All sequences with these settings share it."""
        return StopAutomaton(self.stop)


def _within(low: float, high: float) -> Check:
    check, expected = number(minimum=low), f"a number from {low} to {high}"
    return lambda value: None if check(value) is None and value <= high else expected


def _bias_pairs(bias: object) -> tuple[tuple[int, float], ...]:
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
