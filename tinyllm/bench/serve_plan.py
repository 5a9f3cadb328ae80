"""What a load is made of: prompts, lengths and times of arrival, all fixed by a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import integer, number, optional

_ARRIVALS, _REQUESTS, _PREFIX, _WARM_UP = range(4)
"""Streams of random numbers, so that another rate leaves the prompts as they are."""

_COMMON = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word "
    "but not what all were we "
    "when your can said there use an each which she do how their if will up other about out many then them these "
    "so some her would make "
    "like him into time has look two more write go see number no way could people my than first water been call "
    "who oil its now find "
    "long down day did get come made may part over new sound take only little work know place year live me back "
    "give most very after "
    "thing our just name good sentence man think say great where help through much before line right too mean "
    "old any same tell boy "
    "follow came want show also around form three small set put end does another well large must big even such "
    "because turn here why "
    "ask went men read need land different home us move try kind hand picture again change off play spell air "
    "away animal house point "
    "page letter mother answer found study still learn should world high every near add food between own below "
    "country plant last "
    "school father keep tree never start city earth eye light thought head under story saw left few while along "
    "might close something "
    "seem next hard open example begin life always those both paper together got group often run"
)
WORDS = tuple(_COMMON.split())
"""Common words, one token each in nearly every vocabulary: as many words are about as many tokens, whatever the
server's model."""


@dataclass(frozen=True)
class Load:
    """How many requests of which size, and how they come: `rate` a second as a Poisson process, or `concurrency` at any
    time.

    shared_prefix tokens, the same in all prompts, come before `prompt_tokens` of each one's own. mixed_lengths: own
    prompt tokens and `max_tokens` of a request are drawn evenly from a quarter to seven quarters of what is given,
    which so stays the mean.
    """

    requests: int = 100
    rate: float | None = None
    concurrency: int | None = None
    prompt_tokens: int = 128
    max_tokens: int = 64
    shared_prefix: int = 0
    mixed_lengths: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "requests": integer(1),
            "rate": optional(number(above=0)),
            "concurrency": optional(integer(1)),
            "prompt_tokens": integer(1),
            "max_tokens": integer(1),
            "shared_prefix": integer(0),
            "seed": integer(0),
        }
        for name, check in checks.items():
            expected = check(getattr(self, name))
            if expected:
                raise invalid("bench serve", name, expected, repr(getattr(self, name)))
        if (self.rate is None) == (self.concurrency is None):
            raise InvalidInputError(
                "bench serve: expected a rate or a concurrency, got " + ("both" if self.rate else "neither")
            )


@dataclass(frozen=True)
class Planned:
    """A request to be sent. at: seconds after the start; None: as soon as one before it is done."""

    index: int
    prompt: str
    max_tokens: int
    at: float | None = None


def plan(load: Load) -> Iterator[Planned]:
    """The requests in the order in which they are sent; the same for the same load."""
    prefix = _text(np.random.default_rng([load.seed, _PREFIX]), load.shared_prefix)
    arrivals = np.random.default_rng([load.seed, _ARRIVALS])
    at = None if load.rate is None else 0.0
    for index in range(load.requests):
        random = np.random.default_rng([load.seed, _REQUESTS, index])
        own, most = load.prompt_tokens, load.max_tokens
        if load.mixed_lengths:
            own, most = _mixed(random, own), _mixed(random, most)
        yield Planned(index, f"{prefix} {_text(random, own)}".lstrip(), most, at)
        if at is not None and load.rate is not None:
            at += float(arrivals.exponential(1 / load.rate))


def warm_up(load: Load, number: int) -> Planned:
    """A request that is not counted, of the load's size but without its prefix, whose first use is to be measured."""
    random = np.random.default_rng([load.seed, _WARM_UP, number])
    return Planned(-1 - number, _text(random, load.prompt_tokens), min(load.max_tokens, 16))


def _mixed(random: np.random.Generator, mean: int) -> int:
    return int(random.integers(max(1, mean // 4), max(1, 2 * mean - mean // 4), endpoint=True))


def _text(random: np.random.Generator, words: int) -> str:
    return " ".join(WORDS[i] for i in random.integers(0, len(WORDS), words))
