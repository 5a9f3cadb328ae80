"""The engine's thread: messages in, events out, from any thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.engine.fakes import FakeProgram, alone, engine, sequence
from tinyllm.engine.engine import Event, QueueFullError
from tinyllm.engine.engine_thread import EngineThread, StoppedError


class Reader:
    """Collects the events of a request."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.done = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if event.error or (event.piece and event.piece.finish_reason):
            self.done.set()

    @property
    def text(self) -> str:
        assert self.done.wait(10)
        return "".join(e.piece.text for e in self.events if e.piece)


def started(program: Any = None, **settings: Any) -> EngineThread:
    thread = EngineThread(lambda: engine(program, **settings))
    thread.start()
    assert thread.wait(5) and thread.ready
    return thread


def test_many_threads_get_each_their_own() -> None:
    thread = started()

    def ask(n: int) -> bool:
        reader, prompt = Reader(), f"prompt {n} " * (n % 5 + 1)
        thread.submit(str(n), [sequence(prompt, max_tokens=n % 9 + 1)], reader).result(10)
        return reader.text == alone(prompt, max_tokens=n % 9 + 1)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(60)))
    thread.stop()
    assert thread.stats().pages_held == 0 and not thread.ready


def test_errors_of_adding_come_back_to_who_asked() -> None:
    thread = started(FakeProgram(delay=0.01), max_running=1, max_waiting=0)
    reader = Reader()
    thread.submit("a", [sequence("ab", max_tokens=40)], reader).result(5)
    with pytest.raises(QueueFullError):
        thread.submit("b", [sequence("ab")], Reader()).result(5)
    thread.cancel("a")
    thread.stop()
    assert not reader.done.is_set()


def test_a_dropped_request_shows_in_the_counts_at_once() -> None:
    """Also where nothing is left to run, so that no step counts anew."""
    thread = started(FakeProgram(delay=0.01))
    thread.submit("a", [sequence("ab", max_tokens=500)], Reader()).result(5)
    thread.cancel("a")
    end = time.monotonic() + 5
    while thread.stats().pages_held and time.monotonic() < end:
        time.sleep(0.01)
    assert (thread.stats().pages_held, thread.stats().running) == (0, 0)
    thread.stop()


def test_stopping_drains() -> None:
    """What runs is finished within the time; what is not is told, and nothing new is taken."""
    thread, reader = started(FakeProgram(delay=0.005)), Reader()
    thread.submit("a", [sequence("ab", max_tokens=10)], reader).result(5)
    thread.stop(drain=5)
    assert reader.text == alone("ab", max_tokens=10)
    with pytest.raises(StoppedError):
        thread.submit("b", [sequence("ab")], Reader()).result(5)
    thread, reader = started(FakeProgram(delay=0.02)), Reader()
    thread.submit("a", [sequence("ab", max_tokens=200)], reader).result(5)
    thread.stop(drain=0.05)
    assert reader.done.is_set() and isinstance(reader.events[-1].error, StoppedError)


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    def broken() -> Any:
        raise ValueError("no such model")

    thread = EngineThread(broken)
    thread.start()
    with pytest.raises(ValueError, match="no such model"):
        thread.wait(5)
    with pytest.raises(StoppedError, match="no such model"):
        thread.submit("a", [sequence("ab")], Reader()).result(5)
    thread.stop()


def test_whoever_asks_while_it_is_being_loaded_in_vain_is_told() -> None:
    go = threading.Event()

    def broken() -> Any:
        go.wait(5)
        raise ValueError("no such model")

    thread = EngineThread(broken)
    thread.start()
    early = thread.submit("a", [sequence("ab")], Reader())
    go.set()
    with pytest.raises(StoppedError, match="no such model"):
        early.result(5)
    thread.cancel("a")


def test_nobody_is_left_waiting_when_it_breaks() -> None:
    """Requests that come at that very moment are either told so or get an event that says it."""
    made = engine(FakeProgram(delay=0.001))

    def broken_step() -> Any:
        raise ZeroDivisionError("a mistake")

    thread = EngineThread(lambda: made)
    thread.start()
    thread.wait(5)
    made.step = broken_step  # type: ignore[method-assign]
    readers = [Reader() for _ in range(200)]
    answers = [thread.submit(str(n), [sequence("ab")], reader) for n, reader in enumerate(readers)]
    for answer, reader in zip(answers, readers, strict=True):
        if answer.exception(5) is None:
            assert reader.done.wait(5) and isinstance(reader.events[-1].error, StoppedError)
        else:
            assert isinstance(answer.exception(), StoppedError)
    assert "a mistake" in str(thread.error)
