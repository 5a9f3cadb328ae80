"""Speed of a reply: how long the prompt took, and how fast tokens came after it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyllm.engine.sequence import Piece


class Meter:
    """Times the pieces of one reply: each is one step of the model, and the first follows the prompt.

    prompt_tokens: tokens of the prompt. reused: how many of them were in the cache and were not computed.
    """

    def __init__(self, prompt_tokens: int, reused: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self.reused = reused
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._steps = 0
        self._prefill = self._decode = 0.0

    def watch(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Pass the pieces on, and take their times."""
        start = first = time.perf_counter()
        for piece in pieces:
            now = time.perf_counter()
            if self._steps == 0:
                first, self._prefill = now, now - start
            self._decode = now - first
            self._steps += 1
            self.token_ids += piece.token_ids
            self.finish_reason = piece.finish_reason
            yield piece

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens per second, without those that were in the cache; None before the first piece."""
        return (self.prompt_tokens - self.reused) / self._prefill if self._prefill else None

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second after the first; None where there was only one."""
        return (self._steps - 1) / self._decode if self._decode else None

    def line(self, backend: str) -> str:
        """Tokens and speeds of prompt and reply, and the backend, in one line."""
        reused = f" ({self.reused} of them cached)" if self.reused else ""
        return (
            f"prompt {self.prompt_tokens} tokens{reused}, {_rate(self.prefill_rate)} | "
            f"reply {len(self.token_ids)} tokens, {_rate(self.decode_rate)} | {backend}"
        )


def _rate(value: float | None) -> str:
    return "- tok/s" if value is None else f"{value:.1f} tok/s"
