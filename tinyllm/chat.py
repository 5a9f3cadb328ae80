"""A conversation: its history as messages, and its keys and values kept between turns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Protocol
from weakref import ref

from tinyllm.engine.engine import Engine
from tinyllm.engine.private_engine import run
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import Piece, Sequence
from tinyllm.errors import InvalidInputError, invalid, quoted
from tinyllm.models.text.chat_prompt import TemplateOptions, split_options
from tinyllm.models.text.chat_template import check_messages


class Model(Protocol):
    """What a conversation needs of a model; `LLM` has it."""

    def engine_for_one(self) -> Engine:
        """An engine for one sequence at a time, which begins the next on what it has in common with the last."""

    def sampling(self, settings: dict[str, Any]) -> SamplingParams:
        """Checked settings, defaults filled in."""

    def sequence(
        self, prompt: Any, raw: bool, params: SamplingParams, template: TemplateOptions | None = None
    ) -> Sequence:
        """A checked request."""


class Chat:
    """`chat.stream("Hello")` adds the message and streams the reply, which joins the history, also when it is broken
    off.

    There is one cache, so there is one stream: a new one, `set_system` and `reset` close the one before.
    """

    def __init__(self, llm: Model, system: str | None = None, messages: list[dict[str, Any]] | None = None) -> None:
        self._llm = llm
        self._engine = llm.engine_for_one()
        self._live: Callable[[], Generator[Piece] | None] = lambda: None
        self.prompt_tokens = 0
        """Tokens of the last prompt, history included."""
        self.reused = 0
        """How many of them had their keys and values there already."""
        self.messages: list[dict[str, Any]] = _checked([] if messages is None else messages)
        if system is not None:
            self.set_system(system)

    def set_system(self, text: str) -> None:
        """Set or replace the system message."""
        if not isinstance(text, str):
            raise invalid("chat", "system", "a text", repr(text))
        self._close()
        rest = self.messages[1:] if self.messages and self.messages[0]["role"] == "system" else self.messages
        self.messages = [{"role": "system", "content": text}, *rest]

    def reset(self) -> None:
        """Forget all but the system message."""
        self._close()
        self.messages = [m for m in self.messages[:1] if m["role"] == "system"]

    def send(self, text: str, **options: Any) -> str:
        """The whole reply to a message."""
        return "".join(piece.text for piece in self.stream(text, **options))

    def stream(
        self, text: str, *, on_prefill: Callable[[int, int], None] | None = None, **options: Any
    ) -> Generator[Piece]:
        """Piece by piece; closing the iterator keeps what was said so far. Where nothing was said, the message is
        dropped as well.

        Args:
            options: fields of `SamplingParams` and of `TemplateOptions`.
        """
        if not isinstance(text, str):
            raise invalid("chat", "text", "a text", repr(text))
        if not text:
            raise InvalidInputError("prompt: expected some text, got an empty prompt")
        template, sampling = split_options(options)
        params = self._llm.sampling(sampling)
        self._close()
        messages = [*self.messages, {"role": "user", "content": text}]
        sequence = self._llm.sequence(messages, False, params, template)
        if self._engine.has_work:  # it was interrupted in the middle of a step
            self._engine = self._llm.engine_for_one()
        self.prompt_tokens = len(sequence.prompt)
        self.reused = self._engine.reusable(sequence)  # stays true: nobody else runs while this stream is live
        stream = self._run(messages, sequence, on_prefill)
        self._live = ref(stream)  # weak, so that a stream that is let go of closes at once
        return stream

    def _close(self) -> None:
        """End the stream that is on its way; its reply so far joins the history."""
        live = self._live()
        if live is not None:
            live.close()

    def _run(
        self, messages: list[dict[str, Any]], sequence: Sequence, on_prefill: Callable[[int, int], None] | None
    ) -> Generator[Piece]:
        reply: list[str] = []
        before, self.messages = self.messages, messages
        try:
            with closing(run(self._engine, [sequence], on_prefill)) as pieces:
                for _, piece in pieces:
                    reply.append(piece.text)
                    yield piece
        finally:
            if any(reply) or sequence.finish_reason:
                self.messages.append({"role": "assistant", "content": "".join(reply)})
            else:
                self.messages = before


def _checked(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list):
        raise invalid("chat", "messages", "a list of messages", quoted(messages))
    check_messages(messages)
    return list(messages)
