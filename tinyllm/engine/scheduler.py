"""Which sequences run in the next step, and with how many tokens. Plain Python over page numbers: no model is needed to
test it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import count
from operator import attrgetter

from tinyllm.engine.entry import Entry, Part
from tinyllm.engine.page_pool import Key, PagePool
from tinyllm.engine.rope_lengths import RopeLengths
from tinyllm.engine.sequence import Sequence
from tinyllm.engine.state_rows import StateRows

_RANK = attrgetter("rank")


class Scheduler:
    """Decoding sequences run in each step; prompts are read in chunks beside them, first come first served. A step of
    priority is worth some waiting, and no more, so that the priority of who waits rises with its age.

    Args:
        max_step_tokens: tokens of a step. It bounds how long a prompt can hold up the others.
        max_running: sequences that run at a time.
        aging: seconds of waiting that count as much as one step of priority. Who comes later by more than its priority
            is worth waits longer, so nobody is held off for ever.
        one_at_a_time: a step holds one sequence, and prompts are cut at multiples of `max_step_tokens`, wherever they
            begin.
        max_prompt_rows: tokens of prompts whose logits are wanted in one step, which bounds their memory; one at a time
            `max_step_tokens` does.
        lengths: by which length keys turn.
        recurrent: the model has states with a row for each sequence. What comes before a token is whole in a row or
            not there: no pages are shared, and a sequence goes on after one that has ended only if it begins with all
            of it.
    """

    def __init__(
        self,
        pool: PagePool,
        max_step_tokens: int = 512,
        max_running: int = 64,
        aging: float = 0.1,
        one_at_a_time: bool = False,
        clock: Callable[[], float] = time.monotonic,
        max_prompt_rows: int = 128,
        lengths: RopeLengths | None = None,
        recurrent: bool = False,
    ) -> None:
        self.pool, self.max_prompt_rows, self.lengths = pool, max_prompt_rows, lengths or RopeLengths()
        self.max_step_tokens, self.max_running, self.aging, self.clock = max_step_tokens, max_running, aging, clock
        self.one_at_a_time, self.recurrent = one_at_a_time, recurrent
        # a page that grows is a sequence's only one, and its row has the same number: so both are kept together
        self._rows = StateRows(max_running) if recurrent and pool.largest is None else None
        self._turns: dict[Entry, int] = {}
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.preemptions = 0
        self.prefix_tokens = 0
        """Prompt tokens that were found in the cache."""
        self._numbers = count()

    def add(self, entry: Entry) -> None:
        """Put a new sequence into the queue."""
        entry.rank = self.clock() + entry.priority * self.aging, next(self._numbers)
        self.lengths.settle(entry)
        self.waiting.append(entry)

    def remove(self, entry: Entry) -> None:
        """Drop a sequence that is finished or no longer wanted; its pages go back at once."""
        (self.running if entry in self.running else self.waiting).remove(entry)
        self._turns.pop(entry, None)
        self._release(entry)

    def schedule(self) -> list[Part]:
        """Return the parts of the next step, none if there is nothing to do, and take pages for them."""
        for entry in self.lengths.outgrown(self.running):
            self._preempt(entry)
        entries = [*self.running, *self.waiting]
        suspects = [e for e in entries if e.suspect]
        if suspects:
            return self._alone(min(suspects, key=_RANK))
        late = {e for e in entries if e.sequence.late}
        # where all are late, one has to be waited for
        return self._next_parts(late) or (self._next_parts(late - {min(late, key=_RANK)}) if late else [])

    def _next_parts(self, late: set[Entry]) -> list[Part]:
        """Parts of all sequences but those that would hold up the others."""
        if self.one_at_a_time:
            return self._next_turn(late)
        parts, rows = list[Part](), self.max_prompt_rows
        room = max(1, self.max_step_tokens - sum([e.sequence.pending == 1 for e in self.running]))
        for entry in sorted(self.running, key=_RANK):
            if entry in late or entry not in self.running:  # preempted for one before it
                continue
            sequence = entry.sequence
            decodes = sequence.pending == 1
            count = 1 if decodes else _count(sequence, room, rows)
            if count > 0 and self._grow(entry, count):
                if decodes:
                    parts.append(Part(entry, sequence.tokens(sequence.cached, sequence.cached + 1), 1))
                    continue
                parts.append(_part(entry, count))
                room, rows = room - count, rows - parts[-1].rows
        for entry in sorted(self.waiting, key=_RANK):
            if room <= 0 or len(self.running) >= self.max_running:
                break
            if entry in late or self._is_being_read(entry) or not _count(entry.sequence, room, rows):
                continue
            if not self._admit(entry):
                break
            parts.append(_part(entry, _count(entry.sequence, room, rows)))
            room, rows = room - len(parts[-1].tokens), rows - parts[-1].rows
        return parts

    def done(self, parts: list[Part]) -> None:
        """Note that a step has run: what it computed is in the pages now, and whole pages can be found by others."""
        for entry, tokens, rows in parts:
            sequence = entry.sequence
            sequence.cached += len(tokens)
            known = len(entry.keys)
            # one at a time keys of the prompt alone: those that were decoded have other bits than a prompt's
            whole = self._shared(min(sequence.cached, len(sequence.prompt)) if self.one_at_a_time else sequence.cached)
            if whole > known:  # most steps end within a page, and a reply may be long
                entry.keys = sequence.page_keys(whole, self.pool.page_size, entry.salt + entry.side, entry.keys)
                for page, key in zip(sequence.pages[known:], entry.keys[known:], strict=False):
                    self.pool.register(page, key)
            if rows:  # until then it may still be the cause
                entry.suspect = False

    def failed(self, parts: list[Part]) -> None:
        """Note that a step was broken off and took what all pages contain with it: everything is computed anew, and
        each of the step's sequences runs alone until it is known which was the cause."""
        for entry in list(self.running):
            self._preempt(entry)
        self.pool.forget()
        for part in parts:
            part.entry.suspect = True

    def _alone(self, entry: Entry) -> list[Part]:
        """A step of one sequence; all others wait."""
        for other in [e for e in self.running if e is not entry]:
            self._preempt(other)
        if entry in self.waiting and not self._admit(entry):
            return []
        count = _count(entry.sequence, self.max_step_tokens, self.max_prompt_rows)
        self._grow(entry, count)
        return [_part(entry, count)]

    def _next_turn(self, late: set[Entry]) -> list[Part]:
        """One sequence a step, in turn; new ones begin as soon as there is room."""
        for entry in sorted(self.waiting, key=_RANK):
            if len(self.running) >= self.max_running:
                break
            if not self._is_being_read(entry) and not self._admit(entry):
                break
        for entry in sorted(self.running, key=lambda e: (self._turns.get(e, 0), e.rank)):
            sequence = entry.sequence
            count = min(sequence.pending, self.max_step_tokens - sequence.cached % self.max_step_tokens)
            if entry not in late and entry in self.running and self._grow(entry, count):
                self._turns[entry] = self._turns.get(entry, min(self._turns.values(), default=0)) + 1
                return [_part(entry, count)]
        return []

    def _shared(self, tokens: int) -> int:
        """How many pages of so many tokens others may begin on: those that are whole, and none that still grows. One at
        a time those of whole chunks, as the last chunk has other bits."""
        if self.pool.largest is not None or self.recurrent:
            return 0
        size = self.pool.page_size
        unit = math.lcm(size, self.max_step_tokens) if self.one_at_a_time else size
        return tokens // unit * unit // size

    def _prefix_keys(self, entry: Entry) -> list[Key]:
        """Keys of the whole pages before a sequence's last token, which it has to compute in any case."""
        size, sequence = self.pool.page_size, entry.sequence
        whole = self._shared(sequence.length - 1)
        if len(entry.prefix_keys) < whole:
            entry.prefix_keys = sequence.page_keys(whole, size, entry.salt + entry.side, entry.prefix_keys)
        return entry.prefix_keys

    def _usable_keys(self, entry: Entry) -> list[Key]:
        """Those of the pages on which a sequence may begin: what is wanted of their tokens, if anything, is known."""
        return self._prefix_keys(entry)[: self._shared(entry.sequence.first_row)]

    def _is_being_read(self, entry: Entry) -> bool:
        """Whether a sequence that runs is reading the next page that this one needs, so that it is better to wait for
        that page than to read it twice."""
        keys = self._usable_keys(entry)
        known = self.pool.known(keys)
        readers = (e for e in self.running if e.sequence.prompt_left)
        return known < len(keys) and any(e.prefix_keys[known : known + 1] == [keys[known]] for e in readers)

    def reusable(self, entry: Entry) -> int:
        """How many tokens of a sequence it would not have to compute if it began now."""
        pool, sequence = self.pool, entry.sequence
        self.lengths.settle(entry)
        if pool.largest is None or self.one_at_a_time:
            return self._shared(pool.known(self._usable_keys(entry)) * pool.page_size) * pool.page_size
        return pool.resumable(sequence.tokens(0, sequence.first_row), entry.side, self.recurrent)[1]

    def _admit(self, entry: Entry) -> bool:
        """Start a waiting sequence on the pages that hold a prefix of it and on new ones, or leave it waiting.

        The rule, in pages: a sequence of n tokens, p of whose pages are in the cache, begins where

            ceil(n / page size) - p + r <= free pages + kept pages,

        r being the number of sequences that run, each of which may need a page for its next token: one more must not
        push them out. Where pages grow, a sequence never needs another, and r is taken as 0. The pages of the reply are
        not waited for, so that memory is not left idle for replies that end early; where they all go on and the cache
        is full, the last is preempted (`_grow`). One at a time nobody may be preempted, as what was decoded would be
        computed anew as a prompt, with other bits: there n is the most that the sequence can come to.
        """
        sequence, pool = entry.sequence, self.pool
        keys = self._usable_keys(entry)
        pages = pool.match(keys)
        if self.one_at_a_time:  # what is computed must begin at the border of a chunk
            whole = self._shared(len(pages) * pool.page_size)
            pool.release(pages[whole:])
            pages = pages[:whole]
        cached, keys = len(pages) * pool.page_size, keys[: len(pages)]
        if pool.largest is not None and not self.one_at_a_time:
            pages, cached = pool.resume(sequence.tokens(0, sequence.first_row), entry.side, self.recurrent)
        needed = pool.pages_for(sequence.longest if self.one_at_a_time else sequence.length) - len(pages)
        growth = len(self.running) if pool.largest is None else 0
        if needed + growth > pool.available:
            pool.release(pages)
            return False
        pool.grow(sequence.length, sequence.longest)
        pages += pool.allocate(needed, pages[-1] if pages else None, pool.pages_for(sequence.longest))
        self.prefix_tokens += cached
        entry.reused = cached if entry.reused is None else entry.reused
        sequence.pages, sequence.cached, entry.keys = pages, cached, keys
        if self.recurrent:
            entry.row = pages[0] if self._rows is None else self._rows.take()
        self.waiting.remove(entry)
        self.running.append(entry)
        return True

    def _grow(self, entry: Entry, tokens: int) -> bool:
        """Make room for so many more tokens of a sequence; pages are taken from those who come last if need be. False:
        it was itself the last, and waits again."""
        sequence, pool = entry.sequence, self.pool
        if pool.largest is not None:
            pool.grow(sequence.cached + tokens, sequence.longest)
        missing = pool.pages_for(sequence.cached + tokens) - len(sequence.pages)
        if missing <= 0:
            return True
        while missing > pool.available:
            last = max(self.running, key=_RANK)
            self._preempt(last)
            if last is entry:
                return False
        sequence.pages += pool.allocate(missing, sequence.pages[-1] if sequence.pages else None)
        return True

    def _preempt(self, entry: Entry) -> None:
        """Put a sequence back into the queue; it is computed anew when it runs again."""
        self.preemptions += 1
        self.running.remove(entry)
        self.waiting.append(entry)
        self._release(entry)
        self.lengths.settle(entry)

    def _release(self, entry: Entry) -> None:
        sequence = entry.sequence
        if self._rows is not None and sequence.pages:
            self._rows.give(entry.row)
        self.pool.release(sequence.pages, sequence.tokens(0, sequence.cached), entry.side)
        sequence.pages, sequence.cached, entry.keys = [], 0, []


def _count(sequence: Sequence, room: int, rows: int) -> int:
    """How many pending tokens of a sequence fit into a step with room for so many, and for so many rows of logits."""
    if sequence.first_row < sequence.length - 1:
        room = min(room, sequence.first_row + rows - sequence.cached) if rows > 0 else 0
    return min(sequence.pending, room)


def _part(entry: Entry, count: int) -> Part:
    """The next `count` tokens of a sequence."""
    sequence, end = entry.sequence, entry.sequence.cached + count
    rows = max(0, end - max(sequence.cached, sequence.first_row))
    return Part(entry, sequence.tokens(sequence.cached, end), rows)
