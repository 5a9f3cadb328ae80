"""The one thread that loads, binds and steps; all others pass it messages, and are called back with what came of their
requests.

An array that one thread made may not be evaluated by another (MLX), so nothing but this thread touches the model.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from tinyllm.engine.engine import Engine, Event, Stats
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import TinyllmError

OnEvent = Callable[[Event], None]
Message = Callable[[Engine | None], None]
"""What the thread is to do with its engine, or with None once there is none any more."""


class StoppedError(TinyllmError):
    """The engine takes no more requests: it is being shut down, or could not be loaded, or broke; that is then its
    `__cause__`."""


class EngineThread:
    """Runs an engine until it is stopped.

    Args:
        make: makes the engine, in the thread itself; may take its time.
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._open = True
        self._posting = threading.Lock()
        self._callbacks: dict[str, OnEvent] = {}
        self._loaded = threading.Event()
        self._stopping = False
        self._deadline = 0.0
        self._stats = Stats()
        self.error: BaseException | None = None
        """Why the engine could not be made, or ended."""
        self._thread = threading.Thread(target=self._run, name="tinyllm-engine", daemon=True)

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are run: the engine is loaded, is not being stopped, and has not broken."""
        return self._loaded.is_set() and self.error is None and not self._stopping

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the engine is loaded, and return whether it is. Raises what kept it from being made."""
        self._loaded.wait(timeout)
        if self.error is not None:
            raise self.error
        return self._loaded.is_set()

    def submit(
        self,
        request: str,
        sequences: list[Sequence],
        on_event: OnEvent,
        priority: int = 0,
        seconds: float | None = None,
    ) -> Future[None]:
        """Hand over a request. The future is done when it is taken, or holds what `Engine.add` raised, or
        `StoppedError`.

        on_event: called by the engine's thread with each event of the request, so it must return at once and not raise.
        """
        taken: Future[None] = Future()

        def add(engine: Engine | None) -> None:
            if not taken.set_running_or_notify_cancel():  # who asked has gone
                return
            if engine is None:
                taken.set_exception(self._gone())
                return
            try:
                engine.add(request, sequences, priority, seconds)
            except TinyllmError as error:
                taken.set_exception(error)
                return
            self._callbacks[request] = on_event
            taken.set_result(None)

        if self._stopping:
            taken.set_exception(StoppedError("the engine is shutting down"))
        else:
            self._post(add)
        return taken

    def cancel(self, request: str) -> None:
        """Drop a request if it is not done; no event of it comes any more once the thread has seen this."""

        def drop(engine: Engine | None) -> None:
            self._callbacks.pop(request, None)
            if engine is not None:
                engine.cancel(request)

        self._post(drop)

    def _post(self, message: Message) -> None:
        """Put a message into the inbox; once nobody reads that any more, the message is answered here."""
        with self._posting:
            if self._open:
                self._inbox.put(message)
                return
        message(None)

    def _gone(self) -> StoppedError:
        gone = StoppedError("the engine was shut down" if self.error is None else f"the engine broke: {self.error}")
        gone.__cause__ = self.error
        return gone

    def stats(self) -> Stats:
        """The engine's counters, as they were after the last step."""
        return self._stats

    def stop(self, drain: float = 0.0) -> None:
        """Take nothing more; finish what runs within `drain` seconds, drop the rest, end the thread."""
        self._deadline, self._stopping = time.monotonic() + drain, True
        self._post(lambda engine: None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            engine = self._make()
            self._count(engine)
            self._loaded.set()
            while not self._stopping or (engine.has_work and time.monotonic() < self._deadline):
                self._messages(engine)
                for event in engine.step() if engine.has_work else ():
                    self._tell(event)
                self._count(engine)
        # it could not be made, or has a mistake itself: everybody is told, it takes no more
        except BaseException as error:  # noqa: BLE001
            self.error = error
        self._loaded.set()
        with self._posting:
            self._open = False
        while not self._inbox.empty():
            self._inbox.get()(None)
        for request, on_event in list(self._callbacks.items()):  # some may be dropped meanwhile
            on_event(Event(request, 0, error=self._gone()))

    def _messages(self, engine: Engine) -> None:
        """Carry out all messages of the inbox; where there is nothing to run, wait for one first."""
        if not engine.has_work and not self._stopping:
            self._inbox.get()(engine)
        while not self._inbox.empty():
            self._inbox.get()(engine)

    def _tell(self, event: Event) -> None:
        on_event = self._callbacks.get(event.request)
        if on_event is not None:
            on_event(event)
        if event.error is not None:
            self._callbacks.pop(event.request, None)

    def _count(self, engine: Engine) -> None:
        gone = [r for r in self._callbacks if not engine.knows(r)]
        for request in gone:
            del self._callbacks[request]
        self._stats = replace(engine.stats)
