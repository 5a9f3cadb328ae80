"""One request on its way: its tokens, its text so far, and whether it is done."""

from __future__ import annotations

import secrets
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np

from tinyllm.engine.sampling import Logits, SamplingParams, TokenLogprob, log_probability, sample
from tinyllm.engine.stop_strings import StopStrings
from tinyllm.errors import TinyllmError
from tinyllm.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """A bit of a reply as it is streamed. `text` may be empty while bytes of a character or of a stop string are pending."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None


@dataclass
class Sequence:
    """A prompt and what was generated for it.

    Args:
        prompt: token ids. cached: how many of them are in the KV cache already.
        limit: most tokens that fit, prompt included (the context).
    """

    prompt: list[int]
    params: SamplingParams
    tokenizer: Tokenizer
    stop_token_ids: frozenset[int]
    limit: int
    pages: list[int] = field(default_factory=list)
    cached: int = 0
    generated: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def __post_init__(self) -> None:
        self.seed = secrets.randbits(63) if self.params.seed is None else self.params.seed
        self._text = self.tokenizer.stream()
        self._stops = StopStrings(self.params.stop)
        self._penalised = self.params.repetition_penalty != 1.0

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.prompt) + len(self.generated)

    @property
    def prompt_left(self) -> int:
        """Prompt tokens whose keys are not in the cache yet."""
        return max(0, len(self.prompt) - self.cached)

    def pending(self) -> list[int]:
        """Tokens whose keys are not in the cache yet."""
        if self.cached >= len(self.prompt):
            return self.generated[self.cached - len(self.prompt) :]
        return self.prompt[self.cached :] + self.generated

    def advance(self, logits: Logits) -> Piece:
        """Take the next token from logits `[V]`, and the text it brings. Raises `TinyllmError` where the largest is no finite number."""
        largest = logits.max()
        if not np.isfinite(largest):  # the maximum is NaN where any is; a token of -inf is merely never taken
            why = "a weight is broken, or values left the range of the dtype"
            raise TinyllmError(f"generate: position {self.length}: expected finite logits, got {largest}; {why}")
        seen: SequenceOf[int] = self.prompt + self.generated if self._penalised else ()
        token = sample(logits, self.params, self.seed, self.length, seen)
        if token in self.stop_token_ids:
            self.finish_reason = "stop"
            return Piece(self._rest(), finish_reason="stop")
        wanted = self.params.logprobs
        logprobs = () if wanted is None else (log_probability(logits, token, wanted),)
        self.generated.append(token)
        text = self._stops.push(self._text.push(token))
        if self._stops.found:
            self.finish_reason = "stop"
        elif len(self.generated) >= self.params.max_tokens or self.length >= self.limit:
            self.finish_reason = "length"
            text += self._rest()
        return Piece(text, (token,), logprobs, self.finish_reason)

    def _rest(self) -> str:
        text = self._stops.push(self._text.finish())
        return text if self._stops.found else text + self._stops.finish()
