"""A replica in virtual time: the real scheduler and page pool, with a table in place of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tinyllm.engine.entry import Entry, Part
from tinyllm.engine.page_pool import Key, PagePool, page_keys
from tinyllm.engine.scheduler import Scheduler
from tinyllm.engine.sequence import Sequence
from tinyllm.scale.simulate.step_times import StepTimes
from tinyllm.scale.simulate.trace import BLOCK, TraceRequest


@dataclass(frozen=True)
class ReplicaSizes:
    """The sizes of each replica, as `tinyllm serve` has them."""

    pages: int = 256
    page_size: int = 64
    max_step_tokens: int = 512
    max_running: int = 64

    @property
    def most_tokens(self) -> int:
        """Of a request, prompt and reply."""
        return self.pages * self.page_size


@dataclass(frozen=True)
class _Length:
    """What the scheduler reads of a request's sampling settings."""

    max_tokens: int


class SimulatedSequence(Sequence):
    """A sequence whose tokens are known from the start and mean nothing: no text, no sampling.

    The tokens of a block are all its hash id, those of the reply a number below 0 that no other request has. Where the
    keys of pages go by all tokens before them, that tells the same prefixes apart as the trace does.

    number: of the request.
    """

    def __init__(self, request: TraceRequest, number: int) -> None:
        prompt, reply = request.input_length, request.output_length
        self._tokens = np.empty(prompt + reply, np.int32)
        self._tokens[:prompt] = np.repeat(np.array(request.hash_ids, np.int32), BLOCK)[:prompt]
        self._tokens[prompt:] = -1 - number % 2**31
        self.prompt = cast(list[int], self._tokens[:prompt])
        self.number, self.params, self.limit = number, cast(Any, _Length(reply)), prompt + reply
        self.pages, self.cached, self.grammar, self._prompt_logprobs = [], 0, None, []
        self.written = 0

    @property
    def written(self) -> int:
        """Tokens of the reply that are there."""
        return len(self.generated)

    @written.setter
    def written(self, count: int) -> None:
        self.generated = cast(list[int], range(count))

    def tokens(self, start: int, end: int) -> list[int]:
        """Tokens `start` to `end - 1`, counted through prompt and reply, as int32 `[end - start]`."""
        return cast(list[int], self._tokens[start:end])

    def keys(self, page_size: int) -> list[Key]:
        """Keys of the whole pages before the prompt's last token."""
        whole = (len(self.prompt) - 1) // page_size * page_size
        return page_keys(self.tokens(0, whole), page_size)


class SimulatedReplica:
    """A replica; all times are nanoseconds of virtual time.

    Steps in which nothing changes are run at once (`_equal_steps`), which gives the very same times and the same pages.

    Args:
        first_token, done: told of a sequence's first token and its last, each with the time.
        one_by_one: run each step by itself, as a check.
    """

    def __init__(
        self,
        sizes: ReplicaSizes,
        times: StepTimes,
        first_token: Callable[[int, int], None],
        done: Callable[[int, int], None],
        one_by_one: bool = False,
    ) -> None:
        self.pool = PagePool(sizes.pages, sizes.page_size)
        self.scheduler = Scheduler(self.pool, sizes.max_step_tokens, sizes.max_running, clock=lambda: self._now / 1e9)
        self.busy = 0
        """Nanoseconds in which steps ran."""
        self.tokens = 0
        """Tokens written."""
        self.ends: int | None = None
        """When the steps that run now end; None: nothing runs."""
        self._times, self._first_token, self._done, self._one_by_one = times, first_token, done, one_by_one
        self._parts: list[Part] = []
        self._now = self._begun = self._step = self._steps = 0

    def add(self, now: int, sequence: SimulatedSequence, keys: list[Key]) -> None:
        """Take a request. keys: those of its first pages, so that they are made once."""
        self._now = now
        self.scheduler.add(Entry(sequence, prefix_keys=keys))
        if self.ends is None:
            self._begin(now)
        elif self._steps > 1:  # who comes is looked at after the step that runs
            self._steps = min(self._steps, max(1, -(-(now - self._begun) // self._step)))
            self.ends = self._begun + self._steps * self._step

    def end_steps(self) -> None:
        """Note that the steps that ran have ended, and begin the next."""
        now, count = cast(int, self.ends), self._steps
        self._now, self.busy = now, self.busy + count * self._step
        parts = self._parts
        if count > 1:
            parts = [self._longer(part.entry, count) for part in parts]
        self.scheduler.done(parts)
        for part in parts:
            sequence = cast(SimulatedSequence, part.entry.sequence)
            if sequence.pending:
                continue
            if not sequence.written:
                self._first_token(sequence.number, now)
            sequence.written += 1
            self.tokens += count
            if sequence.written == sequence.params.max_tokens:
                self.scheduler.remove(part.entry)
                self._done(sequence.number, now)
        self._begin(now)

    def _begin(self, now: int) -> None:
        """Begin the next step, or as many equal ones as there are."""
        self._parts = parts = self.scheduler.schedule()
        if not parts:
            self.ends = None
            return
        lengths = [len(part.tokens) for part in parts]
        decoding = lengths.count(1)
        prompt_tokens = sum(lengths) - decoding
        self._step = self._times.nanoseconds(prompt_tokens, decoding)
        self._steps = 1 if prompt_tokens or self._one_by_one else self._equal_steps(parts)
        self._begun, self.ends = now, now + self._steps * self._step

    def _equal_steps(self, parts: list[Part]) -> int:
        """For how many steps nothing changes unless a request comes: all that run write a token in each, none ends
        before the last, and there are pages for all their tokens.

        Who waits goes on waiting: nobody ends, pages become fewer, and as nobody reads a prompt no page appears that a
        prompt begins with. Pages that are taken are the same ones in whatever order, as nothing else takes any
        meanwhile; those that go for them are the least recently used.
        """
        if len(parts) < len(self.scheduler.running):
            return 1
        sequences = [part.entry.sequence for part in parts]
        steps = min([s.params.max_tokens - len(s.generated) if s.generated else 1 for s in sequences])
        pages_for, room = self.pool.pages_for, self.pool.available
        # no sequence holds more pages than its tokens need
        while steps > 1 and sum([pages_for(s.cached + steps) - len(s.pages) for s in sequences]) > room:
            steps //= 2
        return steps

    def _longer(self, entry: Entry, count: int) -> Part:
        """A part of `count` tokens in place of the first of them, with the pages that they need."""
        sequence, pool = entry.sequence, self.pool
        missing = pool.pages_for(sequence.cached + count) - len(sequence.pages)
        if missing > 0:
            sequence.pages += pool.allocate(missing, sequence.pages[-1])
        cast(SimulatedSequence, sequence).written += count - 1
        return Part(entry, sequence.tokens(sequence.cached, sequence.cached + count), 1)
