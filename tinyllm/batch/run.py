"""Runs the requests of a batch file through an engine, many at once, and writes each result as it is done."""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from tinyllm import __version__
from tinyllm.batch.batch_file import BatchFile, Line
from tinyllm.batch.result_file import ResultFile
from tinyllm.engine.engine import Event
from tinyllm.engine.engine_thread import EngineThread, StoppedError
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError, TinyllmError, quoted
from tinyllm.llm import LLM
from tinyllm.openai.errors import ApiError, api_error
from tinyllm.openai.replies import Reply, make_reply
from tinyllm.openai.requests import PreparedRequest, check_model, parse_body, prepare_chat, prepare_completion
from tinyllm.openai.schema import ChatRequest, CompletionRequest

URLS: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
"""What can be asked, with the schema of its body."""
_log = logging.getLogger(__name__)
_PATIENCE = 1.0
"""Seconds without an event after which the engine is asked whether it still runs."""


@dataclass
class Counts:
    """How far a batch is: requests done and failed, those of earlier runs included, and tokens of this run."""

    total: int
    done: int = 0
    failed: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def before(cls, file: BatchFile, left: list[Line], results: Iterable[ResultFile]) -> Counts:
        """Those of a run that has yet to answer some lines of a file."""
        return cls(len(file.lines), len(file.lines) - len(left), sum(result.failed for result in results))

    @property
    def tokens_per_second(self) -> float:
        """Tokens of replies a second, in this run."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class _RunningRequest:
    """A line whose sequences are in the engine. Each group of them is a request of the engine's own; `unfinished`
    counts the sequences that are still written."""

    line: Line
    id: str
    prepared: PreparedRequest
    reply: Reply
    unfinished: int


def lines_left(file: BatchFile, results: Iterable[ResultFile]) -> list[Line]:
    """The lines that have no result yet.

    Raises:
        InvalidInputError: a result is of a request that the file does not have, or two results are of one.
    """
    keys = {line.key for line in file.lines}
    done: set[str | int] = set()
    for result in results:
        foreign = sorted(map(str, result.done - keys))
        if foreign:
            what = f"holds the result of {quoted(foreign[0])}, which is not in {file.path}"
            raise InvalidInputError(f"{result.path}: {what}; name another file")
        repeated = sorted(map(str, result.done & done))
        if repeated:
            raise InvalidInputError(
                f"{result.path}: holds the result of {quoted(repeated[0])}, which is among the other results as well"
            )
        done |= result.done
    return [line for line in file.lines if line.key not in done]


def prepare(llm: LLM, name: str, url: str, body: dict[str, Any]) -> PreparedRequest:
    """A request as the server would prepare it.

    Args:
        name: the one under which requests ask for the model.

    Raises:
        ApiError, InvalidInputError, UnsupportedError: with the field that is wrong.
    """
    request = parse_body(URLS[url], body)
    check_model(request.model, name)
    if request.stream:
        raise ApiError(
            400, "stream: expected false, as a batch gives whole replies, got true", "stream", "unsupported_value"
        )
    return prepare_chat(llm, request) if isinstance(request, ChatRequest) else prepare_completion(llm, request)


class BatchRun:
    """One run over lines of a file.

    Args:
        left: the lines, as `lines_left` gives them.
        results: the file where replies go, and as the last the one where all else goes; both may be one.
        thread: runs the engine of `llm`.
        name: the one under which requests ask for the model.
        window: sequences that are in the engine at a time, running and waiting.
        template: fields about the chat template, for conversations that do not have them.
    """

    def __init__(
        self,
        file: BatchFile,
        left: list[Line],
        results: list[ResultFile],
        thread: EngineThread,
        llm: LLM,
        name: str,
        window: int,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self._file, self._left, self._results, self._thread = file, left, results, thread
        self._llm, self._name, self._window, self._template = llm, name, window, template or {}
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        # by the engine's id of a group: its request, and which choice of the request the group's first one is
        self._running: dict[str, tuple[_RunningRequest, int]] = {}
        self._sequences = 0  # that are in the engine
        self.counts = Counts.before(file, left, results)

    def run(self, on_progress: Callable[[Counts], None] = lambda counts: None) -> Counts:
        """Answer every line that is left. A request that fails has a result as well, and stops no other.

        Raises:
            TinyllmError: the engine broke, or a result cannot be written. What is done by then is kept.
        """
        start, lines = time.monotonic(), iter(self._left)
        self._fill(lines)
        on_progress(self.counts)
        while self._running:
            try:
                event = self._events.get(timeout=_PATIENCE)
            except queue.Empty:  # a request that reached the engine's thread after its end gets no event
                if self._thread.error is not None:
                    reason = f"{type(self._thread.error).__name__}: {self._thread.error}"
                    raise TinyllmError(f"the engine broke: {reason}") from self._thread.error
                continue
            self._take(event)
            self._fill(lines)
            self.counts.seconds = time.monotonic() - start
            on_progress(self.counts)
        return self.counts

    def _fill(self, lines: Iterator[Line]) -> None:
        while self._sequences < self._window and (line := next(lines, None)) is not None:
            self._begin(line)

    def _begin(self, line: Line) -> None:
        request_id = f"batch_req_{uuid.uuid4().hex}"
        if line.problem:
            code, message = line.problem
            error = {"code": code, "message": message, "param": None, "line": line.number}
            self._write(line, request_id, None, error)
            return
        try:
            body = self._file.body(line)
            if URLS[line.url] is ChatRequest:
                body = {**self._template, **body}
            prepared = prepare(self._llm, self._name, line.url, body)
            reply = make_reply(prepared, self._name, f"tinyllm-{__version__}", self._llm.tokenizer)
        except Exception as error:  # noqa: BLE001  whatever a request makes go wrong is its own result
            self._fail(line, request_id, error)
            return
        request, first_choice = _RunningRequest(line, request_id, prepared, reply, len(prepared.sequences)), 0
        self._sequences += request.unfinished
        for number, group in enumerate(prepared.groups):
            self._submit(f"{request_id}.{number}", request, first_choice, group)
            first_choice += len(group)

    def _submit(self, group_id: str, request: _RunningRequest, first_choice: int, group: list[Sequence]) -> None:
        self._running[group_id] = request, first_choice

        def on_accepted(accepted: Future[None]) -> None:
            error = accepted.exception()
            if error is not None:
                self._events.put(
                    Event(group_id, 0, error=error if isinstance(error, Exception) else TinyllmError(str(error)))
                )

        priority = request.prepared.request.priority or 0
        accepted = self._thread.submit(group_id, group, self._events.put, priority)
        accepted.add_done_callback(on_accepted)

    def _take(self, event: Event) -> None:
        if event.request not in self._running:
            return
        if isinstance(event.error, StoppedError):
            raise event.error
        request, first_choice = self._running[event.request]
        reply, piece = request.reply, event.piece
        try:
            if event.error is not None:
                raise event.error
            if piece is None:
                return
            reply.push(first_choice + event.index, piece, event.reused)
            self.counts.tokens += len(piece.token_ids)
            # counted anew, as a reply may have enough of a choice before the engine has finished it
            unfinished = len(request.prepared.sequences) - len(reply.finished)
            self._sequences -= request.unfinished - unfinished
            request.unfinished = unfinished
            if unfinished:
                return
            body = reply.body()
        except Exception as error:  # noqa: BLE001  what goes wrong with a request or its reply ends no other
            self._drop(request)
            self._fail(request.line, request.id, error)
            return
        self._drop(request)
        self.counts.prompt_tokens += reply.prompt_tokens
        self.counts.reused_tokens += reply.cached_tokens
        self._write(request.line, request.id, _response(request.id, 200, body), None)

    def _drop(self, request: _RunningRequest) -> None:
        """Ignore further events of a request, and cancel what still runs of it."""
        self._sequences -= request.unfinished
        for number, group in enumerate(request.prepared.groups):
            group_id = f"{request.id}.{number}"
            del self._running[group_id]
            if any(sequence.finish_reason is None for sequence in group):
                self._thread.cancel(group_id)

    def _fail(self, line: Line, request_id: str, error: Exception) -> None:
        answer = api_error(error, request_id)
        if answer.status >= 500:
            _log.error("%s: %s: %s", request_id, type(error).__name__, error)
        self._write(line, request_id, _response(request_id, answer.status, answer.body()), None)

    def _write(
        self, line: Line, request_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None
    ) -> None:
        """Write the result of a line, and count it."""
        failed = response is None or response["status_code"] != 200
        entry = {"id": request_id, "custom_id": line.custom_id, "response": response, "error": error}
        self._results[-1 if failed else 0].add(entry)
        self.counts.done += 1
        self.counts.failed += failed


def _response(request_id: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": request_id.replace("batch_req", "req", 1), "body": body}
