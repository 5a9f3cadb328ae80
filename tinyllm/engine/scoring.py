"""How likely a model holds a given text to be: log probabilities of its tokens, window by window, in memory that does
not grow with the text.

Source: "Perplexity of fixed-length models" in transformers' documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.engine.sampling.logprobs import log_sums
from tinyllm.errors import TinyllmError, invalid
from tinyllm.graph.program import Program

CONTEXT, STRIDE = 1024, 512
"""Tokens of a window and from one window to the next, unless others are given."""
STEP_LOGITS = 2**24
"""Most logits of a step: 64 MiB of float32."""
STEP_TOKENS = 512
"""Most tokens of a step."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `end - 1` of a text, read as a text of their own. Those from `first` on are scored; the ones
    before are what the model has seen by then."""

    start: int
    first: int
    end: int


@dataclass(frozen=True)
class TextLogprobs:
    """Natural log probabilities of the tokens of a text, each given those before it in its window.

    logprobs: float64 `[L]`; NaN for a token that begins a window and is in no window before it.
    """

    token_ids: list[int]
    logprobs: NDArray[np.float64]

    @property
    def scored(self) -> int:
        """How many tokens have a log probability."""
        return int(np.count_nonzero(~np.isnan(self.logprobs)))

    @property
    def mean(self) -> float:
        """The mean log probability of a token."""
        return float(np.nanmean(self.logprobs))

    @property
    def perplexity(self) -> float:
        """`exp(-mean)`: among how many tokens, all equally likely, the model would have been as unsure."""
        return math.exp(-self.mean)

    @property
    def standard_error(self) -> float:
        """Of the perplexity, as if tokens were independent of one another: how far that of another text of this kind
        and length might be. NaN where one token alone is scored."""
        return self.perplexity * standard_error(self.logprobs[~np.isnan(self.logprobs)])


@dataclass(frozen=True)
class Change:
    """By what share the perplexity of a text is above another model's, and the standard error of that. Both read the
    same tokens, so that it is far below those of the two perplexities."""

    share: float
    error: float


def change(before: TextLogprobs, after: TextLogprobs) -> Change:
    """What a text is the less likely after something than before."""
    ratio = after.perplexity / before.perplexity
    differences = (after.logprobs - before.logprobs)[~np.isnan(before.logprobs)]
    return Change(ratio - 1, ratio * standard_error(differences))


def standard_error(numbers: NDArray[np.float64]) -> float:
    """Of the mean of numbers, as if they were independent of one another; NaN where there is one alone."""
    return float(numbers.std(ddof=1)) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan


def windows(tokens: int, context: int, stride: int) -> list[Window]:
    """The windows of a text: each is of `context` tokens, and begins `stride` after the one before.

    A token is scored in the first window that has it and a token before it. The last window ends with the text.
    """
    found, scored = list[Window](), 0
    for start in range(0, tokens, stride):
        end = min(start + context, tokens)
        first = max(start + 1, scored)
        if first < end:
            found.append(Window(start, first, end))
        scored = end
        if end == tokens:
            break
    return found


def settled_windows(
    where: str, tokens: int, longest: int, context: int | None = None, stride: int | None = None
) -> list[Window]:
    """The windows of a text of so many tokens, for a model that reads `longest`.

    Args:
        context: of a window; None: 1,024, or all that the model reads. stride: None: 512, or `context`.

    Raises:
        InvalidInputError: a text too short to be scored, or windows that the model cannot have; begins with `where`.
    """
    context = min(CONTEXT, longest) if context is None else context
    stride = min(STRIDE, context) if stride is None else stride
    if tokens < 2:
        raise invalid(where, "text", "at least 2 tokens", tokens)
    if not 2 <= context <= longest:
        raise invalid(where, "context", f"2 to {longest} tokens, which the model can read", context)
    if not 1 <= stride <= context:
        raise invalid(where, "stride", f"1 to {context} tokens, those of a window", stride)
    return windows(tokens, context, stride)


def window_logits(
    program: Program, vocab_size: int, token_ids: list[int], windows: list[Window]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The logits by which the tokens of windows are scored, some rows at a time: (number of the token that the first
    row is about, `[R, vocab_size]`).

    Raises `TinyllmError` where logits are not finite, and whatever a kernel raises.
    """
    size = max(window.end - window.start for window in windows)
    step = max(1, min(STEP_TOKENS, STEP_LOGITS // vocab_size))
    runner = ModelRunner(program, 1, size)
    for window in windows:
        last = window.end - 1  # nothing is asked of what comes after it
        for start in range(window.start, last, step):
            part = token_ids[start : min(start + step, last)]
            rows = min(len(part), max(0, start + len(part) - window.first + 1))
            chunk = Chunk(part, start - window.start, [0], rows, window.end - window.start)
            logits = runner.step(make_step([chunk], size))
            if rows:
                about = start + len(part) - rows + 1
                _check_finite(logits, about)
                yield about, logits


def score(
    program: Program, vocab_size: int, token_ids: list[int], windows: list[Window], progress: Progress | None = None
) -> TextLogprobs:
    """Log probabilities of the tokens of a text in its windows.

    progress: called with (tokens scored so far, tokens of the text).
    """
    logprobs = np.full(len(token_ids), np.nan)
    for about, logits in window_logits(program, vocab_size, token_ids, windows):
        end = about + len(logits)
        logprobs[about:end] = token_logprobs(logits, token_ids[about:end])
        if progress is not None:
            progress(end, len(token_ids))
    return TextLogprobs(token_ids, logprobs)


def token_logprobs(logits: NDArray[Any], token_ids: list[int]) -> NDArray[np.float64]:
    """The log probability of each token `[R]` under its row of logits `[R, V]`."""
    return logits[np.arange(len(token_ids)), token_ids] - log_sums(logits)


def _check_finite(logits: NDArray[np.float32], about: int) -> None:
    largest = logits.max(axis=-1)  # NaN where any is
    if not np.isfinite(largest).all():
        row = int(np.argmin(np.isfinite(largest)))
        why = "a weight is broken, or values left the range of the dtype"
        raise TinyllmError(f"logprobs: position {about + row}: expected finite logits, got {largest[row]}; {why}")
