"""Requests in, pieces of replies out: continuous batching over a paged cache, one step at a time. One thread calls it.

Every reply comes out of `Engine.step`: those of a server's crowd, of a batch, and of a single prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tinyllm.engine.entry import Entry, Part
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.engine.page_pool import PagePool
from tinyllm.engine.rope_lengths import RopeLengths
from tinyllm.engine.sampling.params import Logits
from tinyllm.engine.scheduler import Scheduler
from tinyllm.engine.sequence import Piece, Sequence
from tinyllm.errors import InvalidInputError, ModelGoneError, TinyllmError


class QueueFullError(TinyllmError):
    """As many requests wait as may. `retry_after`: seconds after which it is worth asking again."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting, more are not taken; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class DeadlineError(TinyllmError):
    """A request did not end within the seconds that it was given."""


class StepError(TinyllmError):
    """A kernel failed on a request's own step."""


@dataclass(frozen=True)
class Event:
    """A piece of choice `index` of a request, or the error that ended the request. reused: how many of its prompt
    tokens were in the cache."""

    request: str
    index: int
    piece: Piece | None = None
    error: Exception | None = None
    reused: int = 0


@dataclass
class Stats:
    """Counters since the start, seconds of the model and of the engine's own code, and how many sequences wait and run
    and how many pages there are and are held now."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reused_tokens: int = 0
    preemptions: int = 0
    failures: int = 0
    gathered_bytes: int = 0
    """Bytes that kernels copied together, of pages that did not lie in one piece."""
    model_seconds: float = 0.0
    own_seconds: float = 0.0
    waiting: int = 0
    running: int = 0
    pages: int = 0
    pages_held: int = 0
    cache_bytes: int = 0
    """What all pages take."""
    state_bytes: int = 0
    """What rows of recurrent states take: one for each of the most sequences that ever ran together."""


@dataclass(eq=False)
class _Request:
    id: str
    entries: list[Entry]
    deadline: float | None


class Engine:
    """Runs requests on a model's pages.

    Args:
        runner: the model.
        pages, page_size, largest_page: see `PagePool`. Pages of a fixed size are there from the start.
        max_step_tokens, max_running: see `Scheduler`. max_waiting: sequences that may wait; past it `add` refuses.
        one_at_a_time: each step holds one sequence and reads prompts in the same chunks always, so that the bits of its
            logits do not depend on who else is there.
        salt: what the contents of a page depend on besides its tokens.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        pages: int,
        page_size: int = 64,
        largest_page: int | None = None,
        max_step_tokens: int = 512,
        max_running: int = 64,
        max_waiting: int = 256,
        one_at_a_time: bool = False,
        salt: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runner, self.clock, self.max_waiting, self.salt = runner, clock, max_waiting, salt
        self.pool = PagePool(pages, page_size, largest_page)
        self.scheduler = Scheduler(
            self.pool,
            max_step_tokens,
            max_running,
            one_at_a_time=one_at_a_time,
            clock=clock,
            lengths=RopeLengths(runner.program.scalings),
            recurrent=runner.program.is_recurrent,
        )
        self.stats = Stats()
        self._requests: dict[str, _Request] = {}
        self._owners: dict[Entry, tuple[_Request, int]] = {}
        if largest_page is None:
            runner.reserve(pages, page_size)
        self._update_stats()

    @property
    def has_work(self) -> bool:
        """Whether anybody waits or runs."""
        return bool(self._requests)

    def add(self, request: str, sequences: list[Sequence], priority: int = 0, seconds: float | None = None) -> None:
        """Take a request: one sequence, or several that end together where one of them fails.

        Args:
            sequences: the choices of the request; events name them by their index.
            priority: the lower, the earlier. seconds: after so many the request fails; None: never.

        Raises:
            InvalidInputError: the prompt does not fit into the cache, or the id is taken.
            QueueFullError: too many wait already.
        """
        if request in self._requests:
            raise InvalidInputError(f"request {request!r} is there already")
        if len(self.scheduler.waiting) + len(sequences) > self.max_waiting + self.scheduler.max_running - len(
            self.scheduler.running
        ):
            seconds_a_step = self.stats.model_seconds / max(1, self.stats.steps)  # the queue moves within some steps
            raise QueueFullError(len(self.scheduler.waiting), max(1.0, 32 * seconds_a_step))
        for sequence in sequences:
            room = self.pool.capacity - (sequence.params.max_tokens != 0)
            if len(sequence.prompt) > room:
                raise InvalidInputError(f"prompt: has {len(sequence.prompt)} tokens, the cache has room for {room}")
            sequence.limit = min(sequence.limit, self.pool.capacity)
        entries = [Entry(s, priority, salt=self.salt) for s in sequences]
        taken = _Request(request, entries, None if seconds is None else self.clock() + seconds)
        self._requests[request] = taken
        for index, entry in enumerate(entries):
            self._owners[entry] = taken, index
            self.scheduler.add(entry)

    def reusable(self, sequence: Sequence) -> int:
        """How many tokens of a sequence are in the cache, so that it would not compute them if it began now."""
        return self.scheduler.reusable(Entry(sequence, salt=self.salt))

    def knows(self, request: str) -> bool:
        """Whether a request waits or runs."""
        return request in self._requests

    def cancel(self, request: str) -> bool:
        """Drop a request; its pages go back at once. False: it was done already."""
        dropped = self._requests.get(request)
        if dropped is None:
            return False
        for entry in dropped.entries:
            if self._owners.pop(entry, None) is not None:
                self.scheduler.remove(entry)
        del self._requests[request]
        self._update_stats()
        return True

    def step(self) -> list[Event]:
        """Run one step of the model and return its events. Whatever a kernel raises ends the request that it is due to,
        and no other.

        Raises:
            ModelGoneError: no step can be run any more, of whatever request.
        """
        start = self.clock()
        events = self._expired()
        parts = self.scheduler.schedule()
        if not parts:
            self._update_stats()
            return events
        chunks = [
            Chunk(p.tokens, (s := p.entry.sequence).cached, s.pages, p.rows, p.entry.read_as, p.entry.row)
            for p in parts
        ]
        batch = make_step(chunks, self.pool.page_size)
        before = self.clock()
        try:
            self.runner.reserve(self.pool.pages, self.pool.page_size, 1 + max(chunk.row for chunk in chunks))
            logits = self.runner.step(batch)
        except ModelGoneError:
            raise
        except Exception as error:  # noqa: BLE001  a kernel may raise anything
            return events + self._broken(parts, error)
        after = self.clock()
        self.stats.prompt_tokens += sum(min(len(p.tokens), p.entry.sequence.prompt_left) for p in parts)
        self.scheduler.done(parts)
        row = 0
        for part in parts:
            rows, row = logits[row : row + part.rows], row + part.rows
            if part.rows and part.entry in self._owners:
                events += self._advance(part.entry, rows)
        self.stats.steps += 1
        self.stats.gathered_bytes += self.runner.gathered_bytes(batch)
        self.stats.model_seconds += after - before
        self.stats.own_seconds += before - start + self.clock() - after
        self._update_stats()
        return events

    def _advance(self, entry: Entry, logits: Logits) -> list[Event]:
        """Let a sequence read logits `[R, V]`, and choose its next token once all of its tokens are computed."""
        request, index = self._owners[entry]
        try:
            entry.sequence.read_prompt(logits)
            if entry.sequence.pending:
                return []
            piece = entry.sequence.advance(logits[-1])
        except Exception as error:  # noqa: BLE001  the library of grammars may raise anything, too
            return self._fail(request, error)
        self.stats.generated_tokens += len(piece.token_ids)
        if piece.finish_reason is not None:
            del self._owners[entry]
            self.scheduler.remove(entry)
            if not any(e in self._owners for e in request.entries):
                del self._requests[request.id]
        return [Event(request.id, index, piece, reused=entry.reused or 0)]

    def _fail(self, request: _Request, error: Exception) -> list[Event]:
        self.cancel(request.id)
        self.stats.failures += 1
        return [Event(request.id, 0, error=error)]

    def _expired(self) -> list[Event]:
        now = self.clock()
        late = [r for r in self._requests.values() if r.deadline is not None and now >= r.deadline]
        return [
            event
            for r in late
            for event in self._fail(r, DeadlineError("the request was not done in the time that it had"))
        ]

    def _broken(self, parts: list[Part], error: Exception) -> list[Event]:
        """The events of a step that was broken off, and took every page with it. A sequence that ran alone was the
        cause; of several each runs alone now, to find out."""
        self.scheduler.failed(parts)
        if len(parts) > 1:
            return []
        request, _ = self._owners[parts[0].entry]
        cause = StepError(f"the model failed on this request: {type(error).__name__}: {error}")
        cause.__cause__ = error
        return self._fail(request, cause)

    def _update_stats(self) -> None:
        stats = self.stats
        stats.waiting, stats.running = len(self.scheduler.waiting), len(self.scheduler.running)
        stats.pages, stats.pages_held = self.pool.pages, self.pool.held
        stats.cache_bytes, stats.state_bytes = self.runner.pool_bytes()
        stats.preemptions, stats.reused_tokens = self.scheduler.preemptions, self.scheduler.prefix_tokens
