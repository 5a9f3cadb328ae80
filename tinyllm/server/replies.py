"""Pieces of replies as chunks of a stream, or as one body."""

from __future__ import annotations

import time
from typing import Any, Protocol
from uuid import uuid4

from tinyllm.engine.sequence import Piece
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.server.token_logprobs import CompletionLogprobs, chat_logprob
from tinyllm.server.tool_calls import CallDelta, ToolCalls
from tinyllm.server.work import Work


class Reply(Protocol):
    """Takes the pieces of all choices as they come. `finished` holds the choices that want no more."""

    finished: set[int]

    def push(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The chunks that a piece makes."""

    def body(self) -> dict[str, Any]:
        """All of it."""

    def last_chunk(self) -> dict[str, Any]:
        """The chunk that ends a stream with its usage."""


class _Counts:
    """Tokens of a request, as `usage` tells them."""

    def __init__(self, work: Work) -> None:
        self.prompt = sum(len(group[0].prompt) for group in work.groups)
        self.reply = 0
        self.cached: dict[int, int] = {}
        self._firsts = {sum(map(len, work.groups[:number])) for number in range(len(work.groups))}

    def reused(self, index: int, tokens: int) -> None:
        """What was in the cache for the first choice of a prompt; the others find there what the first one wrote."""
        if index in self._firsts:
            self.cached[index] = tokens

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.reply,
            "total_tokens": self.prompt + self.reply,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached.values())},
        }


class _Base:
    """What both kinds of replies have."""

    prefix, whole, part = "", "", ""

    def __init__(self, work: Work, model: str, fingerprint: str) -> None:
        self.work = work
        self.counts = _Counts(work)
        self.finished: set[int] = set()
        self.reasons: dict[int, str] = {}
        self._frame: dict[str, Any] = {
            "id": f"{self.prefix}-{uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def _whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._frame, "object": self.whole, "choices": choices, "usage": self.counts.usage()}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._frame, "object": self.part, "choices": [choice]} | (
            {"usage": None} if self.work.with_usage else {}
        )

    def last_chunk(self) -> dict[str, Any]:
        """The chunk that ends a stream with its usage."""
        return {**self._frame, "object": self.part, "choices": [], "usage": self.counts.usage()}

    def _count(self, index: int, piece: Piece) -> None:
        self.counts.reply += len(piece.token_ids)
        if piece.finish_reason is not None:
            self.finished.add(index)
            self.reasons[index] = piece.finish_reason


class ChatReply(_Base):
    """A model's turn in a conversation; calls of tools are told apart from text."""

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, work: Work, model: str, fingerprint: str, tokenizer: Tokenizer) -> None:
        super().__init__(work, model, fingerprint)
        self._tokenizer = tokenizer
        request: Any = work.request
        self._wants_logprobs = bool(request.logprobs)
        most = 1 if request.parallel_tool_calls is False else None
        count = len(work.sequences)
        self._parsers = [
            None if work.tools is None else ToolCalls(work.tools, work.in_call, most) for _ in range(count)
        ]
        self._messages: list[dict[str, Any]] = [
            {"role": "assistant", "content": None, "refusal": None} for _ in range(count)
        ]
        self._logprobs: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        self._begun: set[int] = set()

    def push(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The chunks that a piece makes."""
        if index in self.finished:
            return []
        self._count(index, piece)
        logprobs = [chat_logprob(self._tokenizer, entry) for entry in piece.logprobs]
        self._logprobs[index] += logprobs
        deltas = self._deltas(index, piece)
        reason = self.reasons.get(index)
        if not (deltas or logprobs or reason) and index in self._begun:
            return []
        if index not in self._begun:
            self._begun.add(index)
            empty: dict[str, Any] = {"content": "" if self._parsers[index] is None else None}
            first = deltas.pop(0) if deltas and "content" in deltas[0] else empty
            deltas.insert(0, {"role": "assistant", **first})
        if not deltas and (logprobs or reason):
            deltas = [{}]
        told: list[dict[str, Any]] = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
        ]
        if logprobs:
            told[0]["logprobs"] = {"content": logprobs, "refusal": None}
        if reason and told[-1]["delta"]:  # the reason has a chunk of its own, as clients look for it in an empty delta
            told.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": None})
        if reason:
            told[-1]["finish_reason"] = reason
        return [self._chunk(choice) for choice in told]

    def _deltas(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to a message, which keeps it."""
        parser, message = self._parsers[index], self._messages[index]
        if parser is None:
            parts: list[str | CallDelta] = [piece.text] if piece.text else []
        else:
            parts = parser.push(piece.text, last=piece.finish_reason is not None)
            if parser.full and index not in self.finished:
                self.finished.add(index)
                self.reasons[index] = "stop"
            if parser.count and self.reasons.get(index) == "stop":
                self.reasons[index] = "tool_calls"
        deltas: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, str):
                message["content"] = (message["content"] or "") + part
                deltas.append({"content": part})
            else:
                deltas.append({"tool_calls": [_call(message, part)]})
        return deltas

    def body(self) -> dict[str, Any]:
        """All of it."""
        choices = []
        for index, message in enumerate(self._messages):
            if message["content"] is None and "tool_calls" not in message:
                message["content"] = ""
            logprobs = {"content": self._logprobs[index], "refusal": None} if self._wants_logprobs else None
            choices.append(
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.reasons.get(index)}
            )
        return self._whole(choices)


def _call(message: dict[str, Any], part: CallDelta) -> dict[str, Any]:
    """A bit of a call for the stream; the message keeps the whole of it."""
    calls = message.setdefault("tool_calls", [])
    if part.name is not None:
        calls.append({"id": part.id, "type": "function", "function": {"name": part.name, "arguments": ""}})
        return {
            "index": part.index,
            "id": part.id,
            "type": "function",
            "function": {"name": part.name, "arguments": part.arguments},
        }
    calls[part.index]["function"]["arguments"] += part.arguments
    return {"index": part.index, "function": {"arguments": part.arguments}}


class CompletionReply(_Base):
    """Texts that go on from prompts."""

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(self, work: Work, model: str, fingerprint: str, tokenizer: Tokenizer) -> None:
        super().__init__(work, model, fingerprint)
        count = len(work.sequences)
        per_prompt = count // len(work.groups)
        self._pending = [work.echoed[index // per_prompt] if work.echoed else "" for index in range(count)]
        self._texts = list(self._pending)
        wanted: Any = work.request.logprobs
        self._logprobs = None if wanted is None else [CompletionLogprobs(tokenizer, wanted) for _ in range(count)]
        self._columns: list[dict[str, list[Any]]] = [
            {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []} for _ in range(count)
        ]

    def push(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The chunks that a piece makes."""
        if index in self.finished:
            return []
        self._count(index, piece)
        columns = None
        if self._logprobs is not None and piece.logprobs:
            columns = self._logprobs[index].columns(piece.logprobs)
            for name, values in columns.items():
                self._columns[index][name] += values
        self._texts[index] += piece.text
        text, self._pending[index] = self._pending[index] + piece.text, ""
        reason = self.reasons.get(index)
        if not (text or columns or reason):
            return []
        return [self._chunk({"index": index, "text": text, "logprobs": columns, "finish_reason": reason})]

    def body(self) -> dict[str, Any]:
        """All of it."""
        return self._whole(
            [
                {
                    "index": index,
                    "text": text,
                    "logprobs": None if self._logprobs is None else self._columns[index],
                    "finish_reason": self.reasons.get(index),
                }
                for index, text in enumerate(self._texts)
            ]
        )


def make_reply(work: Work, model: str, fingerprint: str, tokenizer: Tokenizer) -> ChatReply | CompletionReply:
    """The reply that belongs to a request."""
    from tinyllm.server.schema import ChatRequest

    kind = ChatReply if isinstance(work.request, ChatRequest) else CompletionReply
    return kind(work, model, fingerprint, tokenizer)
