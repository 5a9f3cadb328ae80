"""A replica in virtual time: the real scheduler and page pool, with a table in place of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from tinyllm.engine.entry import Entry, Part
from tinyllm.engine.page_pool import Key, PagePool
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


class SimulatedSequence(Sequence):
    """A sequence that has a length and no tokens: no text, no sampling.

    Its pages get names in place of hashes of tokens: those of the prompt from the hash ids of their block and of all
    before it, those of the reply from the request's number. That tells apart what the trace tells apart, and no more.

    number: of the request. length, longest: tokens that are there, prompt included, and those that will be.
    prefix_keys: names of the whole pages before the prompt's last token.
    """

    length = longest = 0
    late = False

    def __init__(self, request: TraceRequest, number: int, page_size: int) -> None:
        self.number, self.length, self.longest = number, request.input_length, request.total
        self.prompt = cast(list[int], range(self.length))
        self.pages, self.cached = [], 0
        self._names = _names(request, page_size)
        self.prefix_keys = self._names[: (self.length - 1) // page_size]

    @property
    def pending(self) -> int:
        """Tokens that have not been in a step yet."""
        return self.length - self.cached

    @property
    def first_row(self) -> int:
        """The last token, whose logits alone are wanted."""
        return self.length - 1

    def tokens(self, start: int, end: int) -> list[int]:
        """As many of them as are asked for."""
        return range(start, end)  # type: ignore[return-value]

    def page_keys(self, pages: int, page_size: int, salt: bytes, known: list[Key]) -> list[Key]:
        """The names of the first pages."""
        names = self._names[:pages]
        return names + [b"%d %d" % (self.number, page) for page in range(len(names), pages)]


def _names(request: TraceRequest, page_size: int) -> list[Key]:
    """A name for each whole page of a prompt."""
    names, block, read = list[Key](), b"", 0
    for page in range(1, request.input_length // page_size + 1):
        while read * BLOCK < page * page_size:
            block = hashlib.blake2b(block + request.hash_ids[read].to_bytes(4, "little"), digest_size=16).digest()
            read += 1
        names.append(block + page.to_bytes(4, "little"))
    return names


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

    def add(self, now: int, sequence: SimulatedSequence) -> None:
        """Take a request."""
        self._now = now
        self.scheduler.add(Entry(sequence, prefix_keys=sequence.prefix_keys))
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
        for entry, _, rows in parts:
            if not rows:
                continue
            sequence: Any = entry.sequence
            if sequence.length == len(sequence.prompt):
                self._first_token(sequence.number, now)
            sequence.length += 1
            self.tokens += count
            if sequence.length == sequence.longest:
                self.scheduler.remove(entry)
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
        steps = min([s.longest - s.length if s.length > len(s.prompt) else 1 for s in sequences])
        pages_for, room = self.pool.pages_for, self.pool.available
        # no sequence holds more pages than its tokens need
        while steps > 1 and sum([pages_for(s.cached + steps) - len(s.pages) for s in sequences]) > room:
            steps //= 2
        return steps

    def _longer(self, entry: Entry, count: int) -> Part:
        """A part of `count` tokens in place of the first of them, with the pages that they need."""
        sequence: Any = entry.sequence
        pool = self.pool
        missing = pool.pages_for(sequence.cached + count) - len(sequence.pages)
        if missing > 0:
            sequence.pages += pool.allocate(missing, sequence.pages[-1])
        sequence.length += count - 1
        return Part(entry, sequence.tokens(0, count), 1)
