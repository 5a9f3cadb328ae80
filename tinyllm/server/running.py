"""Requests on their way: events of the engine's thread, brought to the loop of the server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from uuid import uuid4

from tinyllm.engine.engine import Event
from tinyllm.engine.engine_thread import EngineThread
from tinyllm.engine.sequence import Sequence
from tinyllm.server.errors import ApiError

Receiver = Callable[[Event], None]


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


class Mailbox:
    """Takes events from the engine's thread to a loop; many go with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[Receiver, Event]] = deque()
        self._called = False

    def put(self, receiver: Receiver, event: Event) -> None:
        """Called by the engine's thread; returns at once."""
        self._events.append((receiver, event))
        if not self._called:
            self._called = True
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False  # before the events are taken, so that one that comes meanwhile calls again
        while self._events:
            receiver, event = self._events.popleft()
            receiver(event)


class RateMeter:
    """Tokens per second over the last seconds."""

    def __init__(self, window: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window, self._clock = window, clock
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, tokens: int) -> None:
        """They came just now."""
        now = self._clock()
        if self._counts and now - self._counts[-1][0] < 0.1:
            self._counts[-1] = self._counts[-1][0], self._counts[-1][1] + tokens
        else:
            self._counts.append((now, tokens))
            self._forget(now)

    @property
    def per_second(self) -> float:
        """Now."""
        self._forget(self._clock())
        return sum(tokens for _, tokens in self._counts) / self._window

    def _forget(self, now: float) -> None:
        while self._counts and now - self._counts[0][0] > self._window:
            self._counts.popleft()


class Running:
    """A request in the engine, one engine request for each of its prompts. Whoever makes one closes it.

    Args:
        most_pending: events that may wait to be read; past it the request is dropped, as its reader is too slow. None:
            any number.
    """

    def __init__(
        self, thread: EngineThread, mailbox: Mailbox, groups: list[list[Sequence]], most_pending: int | None = None
    ) -> None:
        self._thread, self._mailbox, self._groups = thread, mailbox, groups
        name = uuid4().hex
        self._ids = {f"{name}-{number}": sum(map(len, groups[:number])) for number in range(len(groups))}
        self._most = most_pending
        self._pending: deque[tuple[int, Event]] = deque()
        self._awake = asyncio.Event()
        self._over: Exception | None = None

    async def submit(self, priority: int, seconds: float | None) -> None:
        """Hand it to the engine. Raises what the engine says to it."""
        taken = [
            self._thread.submit(request, group, self._on_event, priority, seconds)
            for request, group in zip(self._ids, self._groups, strict=True)
        ]
        # shielded: a future that is cancelled here could not be answered by the engine's thread
        await asyncio.gather(*(asyncio.shield(asyncio.wrap_future(future)) for future in taken))

    def _on_event(self, event: Event) -> None:
        self._mailbox.put(self._take, event)

    def _take(self, event: Event) -> None:
        first = self._ids.get(event.request)
        if first is None or self._over is not None:
            return
        if self._most is not None and len(self._pending) >= self._most:
            self.end(
                ApiError(429, "the reply was not read as fast as it was written, and was dropped", code="slow_reader")
            )
            return
        self._pending.append((first + event.index, event))
        self._awake.set()

    def end(self, error: Exception) -> None:
        """No more of it is wanted; whoever reads it is told why."""
        self._over = self._over or error
        self.close()
        self._awake.set()

    def close(self) -> None:
        """Drop what is left of it: its pages go back at once."""
        ids, self._ids = self._ids, {}
        for request in ids:
            self._thread.cancel(request)
        self._pending.clear()

    async def events(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """All that has come since, as (choice, event), again and again. Raises what ended it."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            if self._over is not None:
                raise self._over
            found = list(self._pending)
            self._pending.clear()
            yield found
