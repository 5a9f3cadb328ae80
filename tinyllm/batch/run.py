"""Runs the requests of a batch file through an engine, many at once, and writes each result as it is done."""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from tinyllm.batch.batch_file import BatchFile, Line
from tinyllm.batch.result_file import ResultFile
from tinyllm.engine.engine import Event
from tinyllm.engine.engine_thread import EngineThread, StoppedError
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError, TinyllmError

_log = logging.getLogger(__name__)
_PATIENCE = 1.0
"""Seconds after which a silent engine is asked whether it is still there."""


class Answer(Protocol):
    """A request on its way to its response."""

    groups: list[list[Sequence]]
    """For each prompt its choices; every group is a request to the engine."""
    priority: int

    @property
    def finished(self) -> set[int]:
        """The choices that want no more, counted through all groups."""

    def push(self, index: int, event: Event) -> None:
        """A piece of choice `index`."""

    def body(self) -> dict[str, Any]:
        """The response, once every choice is finished."""


class Answers(Protocol):
    """How requests become answers, and errors become bodies; `ServerAnswers` has it, so that a batch answers as the
    server does."""

    def answer(self, url: str, body: dict[str, Any]) -> Answer:
        """Check a request. Raises what the server would answer with an error."""

    def error(self, error: Exception, request_id: str) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body with an OpenAI error object)"""


@dataclass
class Counts:
    """How far a batch is: requests done and failed, those of earlier runs included; tokens of this run."""

    total: int
    done: int = 0
    failed: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of this run."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class _Running:
    line: Line
    id: str
    answer: Answer
    unfinished: int = field(init=False)
    reused: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unfinished = sum(map(len, self.answer.groups))


def left_over(file: BatchFile, results: Iterable[ResultFile]) -> list[Line]:
    """The lines without a result yet.

    Raises:
        InvalidInputError: a result is of a request that the file does not have.
    """
    keys = {line.key for line in file.lines}
    done: set[str | int] = set()
    for result in results:
        foreign = sorted(map(str, result.done - keys))
        if foreign:
            raise InvalidInputError(
                f"{result.path}: holds the result of {foreign[0]!r}, which is not in {file.path}; name another file"
            )
        twice = sorted(map(str, result.done & done))
        if twice:
            raise InvalidInputError(
                f"{result.path}: holds the result of {twice[0]!r}, which is among the other results as well"
            )
        done |= result.done
    return [line for line in file.lines if line.key not in done]


class BatchRun:
    """One run over the lines that are left.

    Args:
        results, errors: where replies go, and where all else goes; the same file, or two.
        window: sequences that are in the engine at a time, running and waiting.
    """

    def __init__(
        self,
        file: BatchFile,
        results: ResultFile,
        errors: ResultFile,
        thread: EngineThread,
        answers: Answers,
        window: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._results, self._errors, self._thread, self._answers = file, results, errors, thread, answers
        self._window, self._clock = window, clock
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._running: dict[str, tuple[_Running, int]] = {}
        self._inside = 0
        both = {id(r): r for r in (results, errors)}.values()
        self._left = left_over(file, both)
        self.counts = Counts(len(file.lines), len(file.lines) - len(self._left), sum(r.failed for r in both))

    def run(self, on_progress: Callable[[Counts], None] = lambda counts: None) -> Counts:
        """Answer every line that is left; a request that fails is a result as well, and stops no other.

        Raises:
            TinyllmError: the engine broke, or a result cannot be written. What is done by then is kept.
        """
        start, lines = self._clock(), iter(self._left)
        self._fill(lines)
        on_progress(self.counts)
        while self._running:
            try:
                event = self._inbox.get(timeout=_PATIENCE)
            except queue.Empty:
                self._check_engine()
                continue
            self._take(event)
            self._fill(lines)
            self.counts.seconds = self._clock() - start
            on_progress(self.counts)
        return self.counts

    def _fill(self, lines: Iterator[Line]) -> None:
        while self._inside < self._window:
            line = next(lines, None)
            if line is None:
                return
            self._begin(line)

    def _begin(self, line: Line) -> None:
        request = f"batch_req_{uuid.uuid4().hex}"
        if line.problem:
            code, message = line.problem
            self._done(line, request, None, {"code": code, "message": message, "param": None, "line": line.number})
            return
        try:
            answer = self._answers.answer(line.url, self._file.body(line))
        except Exception as error:  # noqa: BLE001  whatever a request makes go wrong is its own result
            self._fail(line, request, error)
            return
        running, first = _Running(line, request, answer), 0
        self._inside += running.unfinished
        for number, group in enumerate(answer.groups):
            self._submit(f"{request}.{number}", running, first, group)
            first += len(group)

    def _submit(self, name: str, running: _Running, first: int, group: list[Sequence]) -> None:
        """Hand a group to the engine. first: which choice of the request its first one is."""
        self._running[name] = running, first

        def told(taken: Future[None]) -> None:
            error = taken.exception()
            if error is not None:
                self._inbox.put(
                    Event(name, 0, error=error if isinstance(error, Exception) else TinyllmError(str(error)))
                )

        self._thread.submit(name, group, self._inbox.put, running.answer.priority).add_done_callback(told)

    def _take(self, event: Event) -> None:
        found = self._running.get(event.request)
        if found is None:
            return
        running, first = found
        if isinstance(event.error, StoppedError):
            raise event.error
        if event.error is not None:
            self._give_up(running, event.error)
            return
        piece = event.piece
        if piece is None:
            return
        try:
            running.answer.push(first + event.index, event)
        except Exception as error:  # noqa: BLE001  a reply that cannot be told ends its own request alone
            self._give_up(running, error)
            return
        if event.index == 0:
            running.reused[event.request] = event.reused
        self.counts.tokens += len(piece.token_ids)
        done = sum(map(len, running.answer.groups)) - running.unfinished
        newly = len(running.answer.finished) - done  # a reply may have enough before the engine has
        running.unfinished -= newly
        self._inside -= newly
        if not running.unfinished:
            self._drop(running)
            self._finish(running)

    def _drop(self, running: _Running) -> None:
        """No event of its groups counts any more; those that still run are cancelled."""
        for number, group in enumerate(running.answer.groups):
            name = f"{running.id}.{number}"
            del self._running[name]
            if any(s.finish_reason is None for s in group):
                self._thread.cancel(name)

    def _give_up(self, running: _Running, error: Exception) -> None:
        self._inside -= running.unfinished
        self._drop(running)
        self._fail(running.line, running.id, error)

    def _finish(self, running: _Running) -> None:
        try:
            body = running.answer.body()
        except Exception as error:  # noqa: BLE001  as in `_take`
            self._fail(running.line, running.id, error)
            return
        self.counts.prompt_tokens += sum(len(group[0].prompt) for group in running.answer.groups)
        self.counts.reused_tokens += sum(running.reused.values())
        self._done(running.line, running.id, _response(running.id, 200, body), None)

    def _fail(self, line: Line, request: str, error: Exception) -> None:
        status, body = self._answers.error(error, request)
        if status >= 500:
            _log.error("%s: %s: %s", request, type(error).__name__, error)
        self._done(line, request, _response(request, status, body), None)

    def _done(self, line: Line, request: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> None:
        failed = response is None or response["status_code"] != 200
        entry = {"id": request, "custom_id": line.custom_id, "response": response, "error": error}
        (self._errors if failed else self._results).add(entry)
        self.counts.done += 1
        self.counts.failed += failed

    def _check_engine(self) -> None:
        """Raises where the engine's thread has ended, as a request that reached it too late has no event."""
        if self._thread.error is not None:
            raise TinyllmError(
                f"the engine broke: {type(self._thread.error).__name__}: {self._thread.error}"
            ) from self._thread.error


def _response(request: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": request.replace("batch_req", "req", 1), "body": body}
