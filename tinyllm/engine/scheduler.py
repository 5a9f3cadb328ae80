"""Which sequences run in the next step, and with how many tokens. Pure Python over page numbers: no model is needed to
test it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from tinyllm.engine.page_pool import Key, PagePool, page_keys
from tinyllm.engine.sequence import Sequence


@dataclass(eq=False)
class Entry:
    """A sequence with what the scheduler knows of it.

    priority: the lower, the earlier.
    suspect: it was in a step that failed, and runs alone until it is known whether it was the cause.
    """

    sequence: Sequence
    priority: int = 0
    salt: bytes = b""
    arrived: float = 0.0
    number: int = 0
    suspect: bool = False
    reused: int | None = None
    """Prompt tokens that were in the cache when it first ran."""
    keys: list[Key] = field(default_factory=list)
    """Of the pages that are whole."""
    wanted: list[Key] = field(default_factory=list)
    """Of the pages that another may have read for it, made when it is first looked at."""


@dataclass(frozen=True)
class Part:
    """A sequence's share of a step: its next tokens, and whether they are its last ones before a token is chosen."""

    entry: Entry
    tokens: list[int]
    last: bool


class Scheduler:
    """Decoding sequences run in each step; prompts are read in chunks beside them, first come first served within a
    priority.

    Args:
        max_step_tokens: tokens of a step. It bounds how long a prompt can hold up the others.
        max_running: sequences that run at a time.
        aging: seconds of waiting that count as much as one step of priority, so that nobody waits for ever.
        one_at_a_time: a step holds one sequence, and prompts are cut at multiples of `max_step_tokens`, wherever they
            begin.
    """

    def __init__(
        self,
        pool: PagePool,
        max_step_tokens: int = 512,
        max_running: int = 64,
        aging: float = 10.0,
        one_at_a_time: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        self.max_step_tokens, self.max_running, self.aging, self.clock = max_step_tokens, max_running, aging, clock
        self.one_at_a_time = one_at_a_time
        self._turns: dict[Entry, int] = {}
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.preemptions = 0
        self.prefix_tokens = 0
        """Prompt tokens that were found in the cache."""
        self._numbers = count()
        self._now = 0.0
        """When the step at hand was begun: one time for all of it, so that ranks stand still while it is made up."""

    def add(self, entry: Entry) -> None:
        """Put a new sequence into the queue."""
        entry.arrived, entry.number = self.clock(), next(self._numbers)
        self.waiting.append(entry)

    def remove(self, entry: Entry) -> None:
        """A sequence is finished or no longer wanted: its pages go back at once."""
        (self.running if entry in self.running else self.waiting).remove(entry)
        self._turns.pop(entry, None)
        self._release(entry)

    def schedule(self) -> list[Part]:
        """The parts of the next step; empty if there is nothing to do."""
        self._now = self.clock()
        suspects = [e for e in (*self.running, *self.waiting) if e.suspect]
        if suspects:
            return self._alone(min(suspects, key=self._rank))
        if self.one_at_a_time:
            return self._next_turn()
        parts: list[Part] = []
        decoding = sum(len(e.sequence.pending()) == 1 for e in self.running)
        room = max(1, self.max_step_tokens - decoding)
        for entry in self._ranked(self.running):
            pending = entry.sequence.pending()
            if entry not in self.running or (
                room <= 0 and len(pending) > 1
            ):  # preempted for one before it, or no room for its chunk
                continue
            tokens = pending if len(pending) == 1 else pending[:room]
            if self._grow(entry, len(tokens)):
                parts.append(Part(entry, tokens, len(tokens) == len(pending)))
                room -= len(tokens) if len(pending) > 1 else 0
        for entry in self._ranked(self.waiting):
            if room <= 0 or len(self.running) >= self.max_running:
                break
            if self._comes(entry):
                continue
            if not self._admit(entry):
                break
            pending = entry.sequence.pending()
            parts.append(Part(entry, pending[:room], len(pending) <= room))
            room -= len(parts[-1].tokens)
        return parts

    def done(self, parts: list[Part]) -> None:
        """The step has run: what it computed is in the pages now, and whole pages can be found by others."""
        for part in parts:
            entry, sequence = part.entry, part.entry.sequence
            sequence.cached += len(part.tokens)
            known = len(entry.keys)
            # one at a time keys of the prompt alone: those that were decoded have other bits than a prompt's
            whole = self._shared(min(sequence.cached, len(sequence.prompt)) if self.one_at_a_time else sequence.cached)
            if whole > known:  # most steps end within a page, and a reply may be long
                entry.keys = page_keys(
                    _tokens(sequence)[: whole * self.pool.page_size], self.pool.page_size, entry.salt, entry.keys
                )
                for page, key in zip(sequence.pages[known:], entry.keys[known:], strict=False):
                    self.pool.register(page, key)
            if part.last:  # until then it may still be the cause
                entry.suspect = False

    def failed(self, parts: list[Part]) -> None:
        """The step was broken off and took what all pages contain with it: everything is computed anew, the step's
        sequences alone."""
        for entry in list(self.running):
            self._preempt(entry)
        self.pool.forget()
        for part in parts:
            part.entry.suspect = True

    def _alone(self, entry: Entry) -> list[Part]:
        for other in [e for e in self.running if e is not entry]:
            self._preempt(other)
        if entry in self.waiting and not self._admit(entry):
            return []
        pending = entry.sequence.pending()
        tokens = pending[: self.max_step_tokens]
        self._grow(entry, len(tokens))
        return [Part(entry, tokens, len(tokens) == len(pending))]

    def _next_turn(self) -> list[Part]:
        """One sequence a step, in turn; new ones begin as soon as there is room."""
        for entry in self._ranked(self.waiting):
            if len(self.running) >= self.max_running:
                break
            if not self._comes(entry) and not self._admit(entry):
                break
        for entry in sorted(self._ranked(self.running), key=lambda e: self._turns.get(e, 0)):
            pending = entry.sequence.pending()
            tokens = pending[: self.max_step_tokens - entry.sequence.cached % self.max_step_tokens]
            if entry in self.running and self._grow(entry, len(tokens)):
                self._turns[entry] = self._turns.get(entry, min(self._turns.values(), default=0)) + 1
                return [Part(entry, tokens, len(tokens) == len(pending))]
        return []

    def _ranked(self, entries: list[Entry]) -> Iterator[Entry]:
        return iter(sorted(entries, key=self._rank))

    def _rank(self, entry: Entry) -> tuple[int, int]:
        return entry.priority - int((self._now - entry.arrived) / self.aging), entry.number

    def _shared(self, tokens: int) -> int:
        """Pages of so many tokens that others may begin on. One at a time those of whole chunks, as the last chunk has
        other bits."""
        size = self.pool.page_size
        unit = math.lcm(size, self.max_step_tokens) if self.one_at_a_time else size
        return tokens // unit * unit // size

    def _wanted(self, entry: Entry) -> list[Key]:
        """Keys of the whole pages before a sequence's last token, which it has to compute in any case."""
        size, sequence = self.pool.page_size, entry.sequence
        whole = self._shared(sequence.length - 1)
        if len(entry.wanted) < whole:
            entry.wanted = page_keys(_tokens(sequence)[: whole * size], size, entry.salt, entry.wanted)
        return entry.wanted

    def _comes(self, entry: Entry) -> bool:
        """Whether one that runs is reading the next page that this one needs: better to wait for it than to read it
        twice."""
        keys = self._wanted(entry)
        found = self.pool.known(keys)
        readers = (e for e in self.running if e.sequence.prompt_left)
        return found < len(keys) and any(len(e.wanted) > found and e.wanted[found] == keys[found] for e in readers)

    def _admit(self, entry: Entry) -> bool:
        """Start a waiting sequence on the pages that hold a prefix of it and on new ones; not if those running may soon
        need them."""
        sequence, pool = entry.sequence, self.pool
        keys = self._wanted(entry)
        pages = pool.match(keys)
        if self.one_at_a_time:  # what is computed must begin at the border of a chunk
            whole = self._shared(len(pages) * pool.page_size)
            pool.release(pages[whole:])
            pages = pages[:whole]
        most = min(sequence.limit, len(sequence.prompt) + sequence.params.max_tokens)
        # one at a time nobody may be preempted: what was decoded would be computed anew as a prompt, with other bits
        needed = pool.pages_for(most if self.one_at_a_time else sequence.length) - len(pages)
        if needed + len(self.running) > pool.available and not (not self.running and needed <= pool.available):
            pool.release(pages)
            return False
        pages += pool.allocate(needed, pages[-1] if pages else None, pool.pages_for(most))
        sequence.cached = (len(pages) - needed) * pool.page_size
        self.prefix_tokens += sequence.cached
        entry.reused = sequence.cached if entry.reused is None else entry.reused
        sequence.pages, entry.keys = pages, keys[: len(pages) - needed]
        self.waiting.remove(entry)
        self.running.append(entry)
        return True

    def _grow(self, entry: Entry, tokens: int) -> bool:
        """Room for so many more tokens, taken from those who come last if need be. False: it was itself the last, and
        waits again."""
        sequence = entry.sequence
        missing = self.pool.pages_for(sequence.cached + tokens) - len(sequence.pages)
        while missing > 0 and missing > self.pool.available:  # a count over all pages, which most steps can do without
            *_, last = self._ranked(self.running)
            self._preempt(last)
            if last is entry:
                return False
        if missing > 0:
            sequence.pages += self.pool.allocate(missing, sequence.pages[-1] if sequence.pages else None)
        return True

    def _preempt(self, entry: Entry) -> None:
        """Back into the queue; it is computed anew when it runs again."""
        self.preemptions += 1
        self.running.remove(entry)
        self.waiting.append(entry)
        self._release(entry)

    def _release(self, entry: Entry) -> None:
        self.pool.release(entry.sequence.pages)
        entry.sequence.pages, entry.sequence.cached, entry.keys = [], 0, []


def _tokens(sequence: Sequence) -> list[int]:
    return sequence.prompt + sequence.generated
