"""Replies as OpenAI's API has them: one body, or the chunks of a stream."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any
from uuid import uuid4

from tinyllm.engine.sequence import Piece
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.openai.call_parts import CallDelta, Thought
from tinyllm.openai.reasoning import HarmonyReader, ReplyReader, TaggedReader
from tinyllm.openai.requests import PreparedRequest
from tinyllm.openai.schema import ChatRequest, CompletionRequest
from tinyllm.openai.token_logprobs import Columns, CompletionLogprobs, chat_logprob, extend, prompt_logprobs
from tinyllm.openai.tool_calls import ToolCallParser

_THOUGHTS = ("reasoning", "reasoning_content")
"""Names of what a model thought: clients look for the one or the other."""


class Reply(ABC):
    """Collects the pieces of all choices of a request, in whatever order they come.

    `finished` has the choices that need no more pieces, `finish_reasons` why each ended; `prompt_tokens`,
    `cached_tokens` and `completion_tokens` count.
    """

    id_prefix = body_object = chunk_object = ""

    def __init__(self, prepared: PreparedRequest, model: str, fingerprint: str, tokenizer: Tokenizer) -> None:
        self.finished: set[int] = set()
        self.finish_reasons: dict[int, str] = {}
        self.prompt_tokens = sum(len(group[0].prompt) for group in prepared.groups)
        self.completion_tokens = 0
        self._tokenizer, self._with_usage = tokenizer, prepared.with_usage
        self._prompts = [sequence.prompt for sequence in prepared.sequences]
        self._prompt_alternatives = prepared.request.prompt_logprobs
        self._told_prompts: dict[int, list[dict[str, Any] | None]] = {}
        self._cached = dict.fromkeys((sum(map(len, prepared.groups[:n])) for n in range(len(prepared.groups))), 0)
        self._frame: dict[str, Any] = {
            "id": f"{self.id_prefix}-{uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were in the cache when the first choice of each began. What the others find there
        was written by the first, and is not counted."""
        return sum(self._cached.values())

    def push(self, index: int, piece: Piece, reused: int) -> list[dict[str, Any]]:
        """The chunks that the next piece of a choice makes.

        Args:
            index: of the choice, counted through all prompts.
            reused: tokens of its prompt that were in the cache.
        """
        if index in self._cached:
            self._cached[index] = reused
        if index in self.finished:
            return []
        self.completion_tokens += len(piece.token_ids)
        if self._prompt_alternatives is not None and piece.prompt_logprobs:
            self._told_prompts[index] = prompt_logprobs(
                self._tokenizer, self._prompts[index], piece.prompt_logprobs, self._prompt_alternatives
            )
        if piece.finish_reason is not None:
            self.finished.add(index)
            self.finish_reasons[index] = piece.finish_reason
        usage = {"usage": None} if self._with_usage else {}
        return [
            {**self._frame, "object": self.chunk_object, "choices": [choice], **usage}
            for choice in self._chunk_choices(index, piece)
        ]

    def body(self) -> dict[str, Any]:
        """The whole reply, once every choice is finished."""
        return {**self._frame, "object": self.body_object, "choices": self._body_choices(), "usage": self._usage()}

    def usage_chunk(self) -> dict[str, Any]:
        """The chunk that ends a stream which counts its tokens."""
        return {**self._frame, "object": self.chunk_object, "choices": [], "usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    @abstractmethod
    def _chunk_choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The member of `choices` of each chunk that a piece makes; the piece is kept for the body."""

    @abstractmethod
    def _body_choices(self) -> list[dict[str, Any]]:
        """`choices` of the body."""


class ChatReply(Reply):
    """The next message of a conversation, with its tool calls."""

    id_prefix, body_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self,
        prepared: PreparedRequest,
        request: ChatRequest,
        model: str,
        fingerprint: str,
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__(prepared, model, fingerprint, tokenizer)
        self._with_logprobs = bool(request.logprobs)
        choices = range(len(prepared.sequences))
        self._calls = prepared.tools is not None
        self._readers = [_reader(prepared, request) for _ in choices]
        self._messages: list[dict[str, Any]] = [
            {"role": "assistant", "content": None, "refusal": None} for _ in choices
        ]
        self._logprobs: list[list[dict[str, Any]]] = [[] for _ in choices]
        self._begun: set[int] = set()

    def _chunk_choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        logprobs = [chat_logprob(self._tokenizer, entry) for entry in piece.logprobs]
        self._logprobs[index] += logprobs
        deltas = self._deltas(index, piece)
        reason = self.finish_reasons.get(index)
        if not (deltas or logprobs or reason) and index in self._begun:
            return []
        if index not in self._begun:
            self._begun.add(index)
            empty: dict[str, Any] = {"content": None if self._calls else ""}
            first = deltas.pop(0) if deltas and "content" in deltas[0] else empty
            deltas.insert(0, {"role": "assistant", **first})
        if not deltas:
            deltas = [{}]
        if reason and deltas[-1]:  # clients look for the reason beside an empty delta
            deltas.append({})
        choices: list[dict[str, Any]] = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
        ]
        if logprobs:
            choices[0]["logprobs"] = {"content": logprobs, "refusal": None}
        choices[-1]["finish_reason"] = reason
        return choices

    def body(self) -> dict[str, Any]:
        told = self._told_prompts.get(0)  # all choices have one prompt
        return super().body() | ({} if told is None else {"prompt_logprobs": told})

    def _deltas(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to the message of a choice, which keeps it. Ends the choice where it has all its calls."""
        reader, message = self._readers[index], self._messages[index]
        parts = reader.push(piece.text, last=piece.finish_reason is not None)
        if reader.full and index not in self.finished:
            self.finished.add(index)
            self.finish_reasons[index] = "stop"
        if reader.count and self.finish_reasons.get(index) == "stop":
            self.finish_reasons[index] = "tool_calls"
        deltas: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, str):
                message["content"] = (message["content"] or "") + part
                deltas.append({"content": part})
            elif isinstance(part, Thought):
                deltas.append(dict.fromkeys(_THOUGHTS, part.text))
                message |= dict.fromkeys(_THOUGHTS, message.get(_THOUGHTS[0], "") + part.text)
            else:
                deltas.append({"tool_calls": [_call_delta(message, part)]})
        return deltas

    def _body_choices(self) -> list[dict[str, Any]]:
        choices = []
        for index, message in enumerate(self._messages):
            if message["content"] is None and "tool_calls" not in message:
                message["content"] = ""
            logprobs = {"content": self._logprobs[index], "refusal": None} if self._with_logprobs else None
            reason = self.finish_reasons.get(index)
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
        return choices


def _reader(prepared: PreparedRequest, request: ChatRequest) -> ReplyReader:
    """What reads the reply of one choice."""
    most = 1 if request.parallel_tool_calls is False else None
    if prepared.harmony:
        return HarmonyReader(prepared.tools or (), most)
    schemas = {tool.function.name: tool.function.parameters for tool in request.tools or ()}
    calls = None
    if prepared.tools is not None:
        calls = ToolCallParser(prepared.tools, most, prepared.call_form, schemas=schemas)
    return TaggedReader(calls, prepared.thought_end, prepared.thinks)


def _call_delta(message: dict[str, Any], part: CallDelta) -> dict[str, Any]:
    """A part of a call as a stream has it. The message keeps the call."""
    calls = message.setdefault("tool_calls", [])
    if part.name is None:
        calls[part.index]["function"]["arguments"] += part.arguments
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    calls.append({"id": part.id, "type": "function", "function": dict(function)})
    return {"index": part.index, "id": part.id, "type": "function", "function": function}


class CompletionReply(Reply):
    """Texts that continue prompts."""

    id_prefix, body_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        prepared: PreparedRequest,
        request: CompletionRequest,
        model: str,
        fingerprint: str,
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__(prepared, model, fingerprint, tokenizer)
        count = len(prepared.sequences)
        per_prompt = count // len(prepared.groups)
        self._unsent = [prepared.echoed[index // per_prompt] if prepared.echoed else "" for index in range(count)]
        self._texts, self._echoes = list(self._unsent), bool(prepared.echoed)
        wanted, skips = request.logprobs, request.skip_special_tokens is not False
        self._columns = None if wanted is None else [CompletionLogprobs(tokenizer, wanted, skips) for _ in range(count)]

    def _chunk_choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        echo, self._unsent[index] = self._unsent[index], ""
        columns = None if self._columns is None else self._piece_columns(self._columns[index], index, piece, echo)
        self._texts[index] += piece.text
        text, reason = echo + piece.text, self.finish_reasons.get(index)
        if not (text or (columns and columns["tokens"]) or reason):
            return []
        return [{"index": index, "text": text, "logprobs": columns, "finish_reason": reason}]

    def _piece_columns(self, choice: CompletionLogprobs, index: int, piece: Piece, echo: str) -> Columns:
        """The columns of a piece, and before the first one those of an echoed prompt."""
        if not (self._echoes and piece.prompt_logprobs):
            return choice.push(piece)
        columns = choice.echo(self._prompts[index], piece.prompt_logprobs, echo)
        extend(columns, choice.push(piece))
        return columns

    def _body_choices(self) -> list[dict[str, Any]]:
        choices = []
        for index, text in enumerate(self._texts):
            choice = {
                "index": index,
                "text": text,
                "logprobs": None if self._columns is None else self._columns[index].whole,
                "finish_reason": self.finish_reasons.get(index),
            }
            told = self._told_prompts.get(index)
            choices.append(choice if told is None else choice | {"prompt_logprobs": told})
        return choices


def make_reply(prepared: PreparedRequest, model: str, fingerprint: str, tokenizer: Tokenizer) -> Reply:
    """An empty reply of the kind that the request asks for.

    Args:
        model: the name that the reply gives.
        fingerprint: tells which model, backend and kernels wrote it.
    """
    request = prepared.request
    if isinstance(request, ChatRequest):
        return ChatReply(prepared, request, model, fingerprint, tokenizer)
    return CompletionReply(prepared, request, model, fingerprint, tokenizer)
