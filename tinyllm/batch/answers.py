"""Requests of a batch, answered as the server answers them: its schema, its errors, its replies."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tinyllm import __version__
from tinyllm.engine.engine import Event
from tinyllm.engine.grammar import Grammars
from tinyllm.llm import LLM
from tinyllm.server.errors import ApiError, api_error, validation_error
from tinyllm.server.replies import make_reply
from tinyllm.server.schema import ChatRequest, CompletionRequest
from tinyllm.server.work import Work, chat_work, completion_work

URLS: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
"""What can be asked, and what the body has to be."""


class WholeAnswer:
    """Collects the choices of a request until they are finished."""

    def __init__(self, work: Work, llm: LLM) -> None:
        self.groups = work.groups
        self.priority = work.request.priority or 0
        self._reply = make_reply(work, work.request.model, f"tinyllm-{__version__}", llm.tokenizer)

    @property
    def finished(self) -> set[int]:
        """The choices that want no more, counted through all groups."""
        return self._reply.finished

    def push(self, index: int, event: Event) -> None:
        """A piece of choice `index`."""
        if event.piece is not None:
            self._reply.counts.reused(index, event.reused)
            self._reply.push(index, event.piece)

    def body(self) -> dict[str, Any]:
        """The response."""
        return self._reply.body()


class ServerAnswers:
    """Answers of one model, known by `name`."""

    def __init__(self, llm: LLM, name: str) -> None:
        self._llm, self._name, self._grammars = llm, name, Grammars(llm.tokenizer)

    def answer(self, url: str, body: dict[str, Any]) -> WholeAnswer:
        """Check a request. Raises what `error` makes an answer of."""
        kind = URLS[url]
        try:
            request = kind.model_validate(body)
        except ValidationError as error:
            details: Any = [detail | {"loc": ("body", *detail["loc"])} for detail in error.errors(include_url=False)]
            raise validation_error(details, body, dict(kind.model_fields)) from error
        if request.model != self._name:
            raise ApiError(
                404, f"model: expected {self._name!r}, got {request.model!r:.80}", "model", "model_not_found"
            )
        if request.stream:
            raise ApiError(
                400, "stream: expected false, as a batch gives whole replies, got true", "stream", "unsupported_value"
            )
        if isinstance(request, ChatRequest):
            return WholeAnswer(chat_work(self._llm, self._grammars, request), self._llm)
        return WholeAnswer(completion_work(self._llm, self._grammars, request), self._llm)

    def error(self, error: Exception, request_id: str) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body with an OpenAI error object)"""
        found = api_error(error, request_id)
        return found.status, found.body()
