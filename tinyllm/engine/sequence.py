"""One request on its way: its tokens, its text so far, and whether it is done."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

import numpy as np

from tinyllm.engine.grammar.state import GrammarState, Mask
from tinyllm.engine.page_pool import Key, page_keys
from tinyllm.engine.sampling.adjust import TokenCounts, adjust
from tinyllm.engine.sampling.logprobs import TokenLogprob, log_probability
from tinyllm.engine.sampling.params import Logits, SamplingParams
from tinyllm.engine.sampling.sample import sample
from tinyllm.engine.stop_strings import StopStrings
from tinyllm.errors import InvalidInputError, TinyllmError, invalid
from tinyllm.models.text.tokenizer import Tokenizer

SEEDS = 2**63
"""How many seeds there are."""


@dataclass(frozen=True)
class Piece:
    """A bit of a reply as it is streamed. `text` may be empty while bytes of a character or of a stop string are
    pending.

    Args:
        logprobs: of `token_ids`, where they are asked for.
        prompt_logprobs: of the tokens of the prompt, beside the first piece; the first token has none.
        end_logprob: of the token that ended the reply, and is no part of it.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    end_logprob: TokenLogprob | None = None


@dataclass
class Sequence:
    """A prompt and what was generated for it.

    Args:
        prompt: token ids. cached: how many of them are in the KV cache already.
        limit: most tokens that fit, prompt included (the context).
        stop_token_ids: those of the model; the settings may add some.
        grammar: where the settings name one, its state (`Grammars.start`), for this sequence alone.
        choice: its number among the choices of a request, which is added to the seed.
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
    grammar: GrammarState | None = None
    choice: int = 0

    def __post_init__(self) -> None:
        params = self.params
        if (params.grammar is None) != (self.grammar is None):
            raise invalid(
                "sequence",
                "grammar",
                "a state where the settings name a grammar, and none otherwise",
                repr(self.grammar),
            )
        self.seed = secrets.randbits(63) if params.seed is None else (params.seed + self.choice) % SEEDS
        self._text = self.tokenizer.stream(params.skip_special_tokens)
        self._stops = StopStrings(params.stop_automaton, params.include_stop_str_in_output)
        self._ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.stop_token_ids)
        self._counts: TokenCounts | None = None
        self._counted = 0
        self._prompt_logprobs: list[TokenLogprob | None] = [] if params.prompt_logprobs is None else [None]
        self._plain = not (params.counts_tokens or params.logit_bias or params.grammar)

    @property
    def length(self) -> int:
        """Tokens so far, prompt included."""
        return len(self.prompt) + len(self.generated)

    @property
    def longest(self) -> int:
        """Most tokens that it can come to, prompt included."""
        return min(self.limit, len(self.prompt) + self.params.max_tokens)

    @property
    def prompt_left(self) -> int:
        """Prompt tokens whose keys are not in the cache yet."""
        return max(0, len(self.prompt) - self.cached)

    @property
    def pending(self) -> int:
        """Tokens whose keys are not in the cache yet: what is left of the prompt, then the token that came last."""
        return len(self.prompt) + len(self.generated) - self.cached

    @property
    def late(self) -> bool:
        """Whether it had better not be in the next step, which would wait for its grammar."""
        return self.grammar is not None and self.grammar.late

    @property
    def first_row(self) -> int:
        """The first token whose logits are wanted; where the cache has the keys of those before it, they need not be
        computed. It is the last of all, unless the log probabilities of the prompt are not all known yet."""
        known = len(self._prompt_logprobs)
        return known - 1 if 0 < known < len(self.prompt) else self.length - 1

    def read_prompt(self, logits: Logits) -> None:
        """Take the log probabilities of the prompt from logits `[R, V]`, those of the R tokens that were computed last.
        Raises as `advance` does."""
        for place, row in enumerate(logits, self.cached - len(logits)):
            if place == self.first_row and place < len(self.prompt) - 1:
                self._likeliest(row, place + 1)
                alternatives = self.params.prompt_logprobs or 0
                self._prompt_logprobs.append(log_probability(row, self.prompt[place + 1], alternatives))

    def tokens(self, start: int, end: int) -> list[int]:
        """Tokens `start` to `end - 1`, counted through prompt and reply."""
        prompt = len(self.prompt)
        if start >= prompt:
            return self.generated[start - prompt : end - prompt]
        return self.prompt[start:end] if end <= prompt else self.prompt[start:] + self.generated[: end - prompt]

    def page_keys(self, pages: int, page_size: int, salt: bytes, known: list[Key]) -> list[Key]:
        """The keys of the first pages, of which some are known: see `page_keys`."""
        return page_keys(self.tokens(0, pages * page_size), page_size, salt, known)

    def advance(self, logits: Logits) -> Piece:
        """Take the next token from logits `[V]`, and the text it brings.

        Raises `TinyllmError` where the largest logit is no finite number, `InvalidInputError` where no token may come
        next.
        """
        told = () if self.generated else tuple(self._prompt_logprobs)
        piece = self._next_piece(logits)
        return replace(piece, prompt_logprobs=told) if told else piece

    def _next_piece(self, logits: Logits) -> Piece:
        best = self._likeliest(logits, self.length)
        if not self.params.max_tokens:
            self.finish_reason = "length"
            return Piece("", finish_reason="length")
        early = len(self.generated) < self.params.min_tokens
        chosen_from = logits
        if early or not self._plain:
            allowed = self._allowed(early)
            if allowed is not None and not allowed.any():
                return self._end()
            chosen_from = adjust(logits, self.params, self._token_counts(), allowed, self._ends if early else ())
            best = int(chosen_from.argmax())
            if chosen_from[best] == -np.inf:
                where = f"at position {self.length}"
                raise InvalidInputError(
                    f"generate: no token may come next {where}, as the settings forbid all that could"
                )
        token = sample(chosen_from, self.params, self.seed, self.length, best)
        alternatives = self.params.logprobs
        logprobs = () if alternatives is None else (log_probability(logits, token, alternatives),)
        return self._end(token, logprobs) if token in self._ends else self._take(token, logprobs)

    def _likeliest(self, logits: Logits, position: int) -> int:
        """The token with the largest logit. Raises `TinyllmError` where that is no finite number."""
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):  # the largest is NaN where any is; a token of -inf is merely never taken
            why = "a weight is broken, or values left the range of the dtype"
            raise TinyllmError(f"generate: position {position}: expected finite logits, got {logits[best]}; {why}")
        return best

    def _allowed(self, early: bool) -> Mask | None:
        """Which tokens the grammar allows; none at all where it can only end."""
        if self.grammar is None:
            return None
        mask = self.grammar.mask()
        if not mask.any():
            if not self.grammar.may_end:
                where = f"at position {self.length}"
                raise InvalidInputError(
                    f"generate: no token of the vocabulary continues the reply {where} as the grammar asks"
                )
        elif self.grammar.may_end and not early:
            mask = mask.copy()
            mask[[token for token in self._ends if token < mask.size]] = True
        return mask

    def _token_counts(self) -> TokenCounts | None:
        """How often each token was there, with those that came since it was asked for last."""
        if not self.params.counts_tokens:
            return None
        if self._counts is None:
            self._counts = TokenCounts(self.prompt if self.params.repetition_penalty != 1.0 else ())
        for token in self.generated[self._counted :]:
            self._counts.add(token)
        self._counted = len(self.generated)
        return self._counts

    def _take(self, token: int, logprobs: tuple[TokenLogprob, ...]) -> Piece:
        self.generated.append(token)
        text = self._text.push(token)
        if len(self.generated) >= self.params.min_tokens:
            text = self._stops.push(text) + self._stops.push(self._text.unspoken(token), shown=False)
        if self.grammar is not None:
            self.grammar.accept(token)
        if self._stops.found:
            self.finish_reason = "stop"
        elif self.grammar is not None and self.grammar.finished:
            self.finish_reason = "stop"
            text += self._rest()
        elif len(self.generated) >= self.params.max_tokens or self.length >= self.limit:
            self.finish_reason = "length"
            text += self._rest()
        return Piece(text, (token,), logprobs, self.finish_reason)

    def _end(self, token: int | None = None, logprobs: tuple[TokenLogprob, ...] = ()) -> Piece:
        """End the reply: by a token, or because nothing may follow."""
        self.finish_reason = "stop"
        unspoken = "" if token is None else self._text.unspoken(token)
        if token is None or not self.params.include_stop_str_in_output:
            return Piece(self._rest(unspoken), finish_reason="stop", end_logprob=logprobs[0] if logprobs else None)
        self.generated.append(token)
        text = self._stops.push(self._text.push(token))
        return Piece(text + self._rest(unspoken), (token,), logprobs, "stop")

    def _rest(self, unspoken: str = "") -> str:
        """The text that is left at the end; unspoken: how the special token that ended the reply is written."""
        text = self._stops.push(self._text.finish()) + self._stops.push(unspoken, shown=False)
        return text if self._stops.found else text + self._stops.finish()
