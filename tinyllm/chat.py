"""A conversation: its history as messages, and its keys and values kept between turns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from tinyllm.engine.generation import generate
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sequence import Piece, Sequence

if TYPE_CHECKING:
    from tinyllm.llm import LLM


class Chat:
    """`chat.stream("Hello")` adds the message and streams the reply, which joins the history, also when it is broken off."""

    def __init__(self, llm: LLM, system: str | None = None, messages: list[dict[str, Any]] | None = None) -> None:
        self._llm = llm
        self._runner = ModelRunner(llm.program)
        self._cached: list[int] = []
        self.prompt_tokens = 0
        """Tokens of the last prompt, history included."""
        self.reused = 0
        """How many of them had their keys and values there already."""
        self.messages: list[dict[str, Any]] = list(messages or [])
        if system is not None:
            self.set_system(system)

    def set_system(self, text: str) -> None:
        """Set or replace the system message."""
        rest = self.messages[1:] if self.messages and self.messages[0]["role"] == "system" else self.messages
        self.messages = [{"role": "system", "content": text}, *rest]

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = [m for m in self.messages[:1] if m["role"] == "system"]

    def send(self, text: str, **sampling: Any) -> str:
        """The whole reply to a message."""
        return "".join(piece.text for piece in self.stream(text, **sampling))

    def stream(self, text: str, *, on_prefill: Callable[[int, int], None] | None = None, **sampling: Any) -> Generator[Piece]:
        """Piece by piece; closing the iterator keeps what was said so far."""
        messages = [*self.messages, {"role": "user", "content": text}]
        sequence = self._llm.sequence(messages, False, sampling)
        known = [] if self._runner.empty else self._cached
        same = next(
            (i for i, (a, b) in enumerate(zip(known, sequence.prompt, strict=False)) if a != b), min(len(known), len(sequence.prompt))
        )
        self.prompt_tokens = len(sequence.prompt)
        sequence.cached = self.reused = min(same, len(sequence.prompt) - 1)
        return self._run(messages, sequence, on_prefill)

    def _run(
        self, messages: list[dict[str, Any]], sequence: Sequence, on_prefill: Callable[[int, int], None] | None
    ) -> Generator[Piece]:
        reply: list[str] = []
        self.messages = messages
        try:
            for _, piece in generate(self._runner, [sequence], on_prefill):
                reply.append(piece.text)
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(reply)})
            self._cached = (sequence.prompt + sequence.generated)[: sequence.cached]
