"""A request that the engine runs, as an event loop sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from uuid import uuid4

from tinyllm.engine.engine import Event
from tinyllm.engine.engine_thread import EngineThread
from tinyllm.engine.sequence import Sequence
from tinyllm.openai.errors import ApiError

Receiver = Callable[[Event], None]


class Mailbox:
    """Brings events from the engine's thread to an event loop. Events that come together wake the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[Receiver, Event]] = deque()
        self._scheduled = False

    def put(self, receiver: Receiver, event: Event) -> None:
        """Have the loop call `receiver(event)`. Called by the engine's thread; returns at once."""
        self._events.append((receiver, event))
        if not self._scheduled:
            self._scheduled = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits for the event
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False  # before the events are taken, so that one that comes meanwhile schedules again
        while self._events:
            receiver, event = self._events.popleft()
            receiver(event)


class RequestInFlight:
    """A client's request in the engine, where each of its prompts is a request of its own. Whoever makes one closes it.

    Args:
        groups: for each prompt the sequences of its choices.
        max_pending: events that may wait to be read. With more of them the client is too slow, and the request is
            dropped. None: any number.
    """

    def __init__(
        self, thread: EngineThread, mailbox: Mailbox, groups: list[list[Sequence]], max_pending: int | None = None
    ) -> None:
        self._thread, self._mailbox, self._groups = thread, mailbox, groups
        self._max_pending = max_pending
        name = uuid4().hex
        # the engine's id of each prompt, and the number of the first of its choices
        self._first_choices = {f"{name}-{n}": sum(map(len, groups[:n])) for n in range(len(groups))}
        self._pending: deque[tuple[int, Event]] = deque()
        self._changed = asyncio.Event()
        self._error: Exception | None = None

    async def submit(self, priority: int, seconds: float | None) -> None:
        """Hand it to the engine. Raises what `EngineThread.submit` does.

        Args:
            priority: the lower, the earlier.
            seconds: the time that it has; None: any.
        """
        accepted = [
            self._thread.submit(request_id, group, self._on_event, priority, seconds)
            for request_id, group in zip(self._first_choices, self._groups, strict=True)
        ]
        # shielded, as the engine's thread could not answer a future that was cancelled here
        await asyncio.gather(*(asyncio.shield(asyncio.wrap_future(future)) for future in accepted))

    async def events(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """All (choice, event) since the last time, again and again. Raises what `end` was given."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._error is not None:
                raise self._error
            events = list(self._pending)
            self._pending.clear()
            yield events

    def end(self, error: Exception) -> None:
        """Drop what is left of it, and raise an error where its events are read."""
        self._error = self._error or error
        self.close()
        self._changed.set()

    def close(self) -> None:
        """Drop what is left of it; its pages are free with the engine's next step."""
        request_ids, self._first_choices = self._first_choices, {}
        for request_id in request_ids:
            self._thread.cancel(request_id)
        self._pending.clear()

    def _on_event(self, event: Event) -> None:
        """Called by the engine's thread."""
        self._mailbox.put(self._take, event)

    def _take(self, event: Event) -> None:
        first = self._first_choices.get(event.request)
        if first is None or self._error is not None:
            return
        if self._max_pending is not None and len(self._pending) >= self._max_pending:
            self.end(
                ApiError(429, "the reply was not read as fast as it was written, and was dropped", code="slow_reader")
            )
            return
        self._pending.append((first + event.index, event))
        self._changed.set()
