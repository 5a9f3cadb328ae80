"""Requests with the times at which they come: read from a file, or made up with prefixes in common.

The format is that of Mooncake's public traces (https://github.com/kvcache-ai/Mooncake), a JSON object a line. It has
`timestamp` in milliseconds, `input_length` and `output_length` in tokens, and `hash_ids`, a number for each block of
512 tokens of the prompt, equal where the block and all before it are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyllm.errors import InvalidInputError, quoted
from tinyllm.models.text.json_text import read_json

BLOCK = 512
"""Tokens of a block that a hash id stands for."""
_LARGEST = 2**31 - 1
"""Of hash ids, and of lengths."""
_LATEST = 2**43
"""Of times, in milliseconds: as nanoseconds they fit into an int64."""


class TraceRequest(NamedTuple):
    """A request. at: milliseconds after the start."""

    at: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]

    @property
    def total(self) -> int:
        """Tokens of prompt and reply."""
        return self.input_length + self.output_length

    def line(self) -> str:
        """The request as a line of a file."""
        fields = {
            "timestamp": self.at,
            "input_length": self.input_length,
            "output_length": self.output_length,
            "hash_ids": self.hash_ids,
        }
        return json.dumps(fields, separators=(",", ":"))


def read_trace(path: Path) -> list[TraceRequest]:
    """The requests of a file in the order of their times.

    Raises:
        InvalidInputError: it cannot be read, is empty, or a line is no request: the line is named.
    """
    requests = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    requests.append(_request(f"{path}:{number}", line))
    except OSError as error:
        raise InvalidInputError(f"simulate: {path}: cannot be read: {error.strerror}") from error
    if not requests:
        raise InvalidInputError(f"simulate: {path}: expected at least one request, got none")
    return sorted(requests, key=lambda request: request.at)


def _request(where: str, line: bytes) -> TraceRequest:
    try:
        fields = read_json(line)
    except InvalidInputError as error:
        text = line.strip().decode(errors="replace")
        raise InvalidInputError(f"simulate: {where}: expected a JSON object, got {quoted(text)}") from error
    if not isinstance(fields, dict):
        raise InvalidInputError(f"simulate: {where}: expected a JSON object, got {quoted(fields)}")
    at = float(_number(where, fields, "timestamp", 0, _LATEST, (int, float)))
    input_length, output_length = (_number(where, fields, f"{of}_length", 1, _LARGEST) for of in ("input", "output"))
    ids, blocks = fields.get("hash_ids"), -(-input_length // BLOCK)
    if not isinstance(ids, list) or len(ids) != blocks or not all(_is_id(value) for value in ids):
        expected = f"{blocks} integers from 0 to {_LARGEST}, one for each {BLOCK} tokens"
        raise InvalidInputError(f"simulate: {where}: hash_ids: expected {expected}, got {quoted(ids)}")
    return TraceRequest(at, input_length, output_length, tuple(ids))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _number(
    where: str, fields: dict[str, Any], name: str, low: int, high: int, kinds: tuple[type, ...] = (int,)
) -> Any:
    value: Any = fields.get(name)
    if type(value) not in kinds or not low <= value <= high:
        expected = f"{'an integer' if kinds == (int,) else 'a number'} from {low} to {high}"
        raise InvalidInputError(f"simulate: {where}: {name}: expected {expected}, got {quoted(value)}")
    return value


def made_up(
    requests: int, rate: float, groups: int, prefix_tokens: int, prompt_tokens: int, reply_tokens: int, seed: int = 0
) -> Iterator[TraceRequest]:
    """Requests that come as a Poisson process, each with the prefix of one of some groups and a prompt of its own.

    Groups are drawn by Zipf's law, group n as often as 1/n; lengths evenly from half to one and a half of their mean.
    The same arguments give the same requests.

    Args:
        rate: requests a second.
        prefix_tokens: tokens that the requests of a group have in common, in whole blocks. prompt_tokens,
            reply_tokens: the mean of each request's own.
    """
    random = np.random.default_rng(seed)
    at = np.cumsum(random.exponential(1e3 / rate, requests)) if requests else np.zeros(0)
    shares = 1 / np.arange(1, groups + 1)
    group = random.choice(groups, requests, p=shares / shares.sum())
    own, reply = (
        random.integers(max(1, mean // 2), max(1, mean + mean // 2), requests, endpoint=True)
        for mean in (prompt_tokens, reply_tokens)
    )
    prefix_blocks = -(-prefix_tokens // BLOCK)
    next_id = groups * prefix_blocks
    for n in range(requests):
        first = int(group[n]) * prefix_blocks
        blocks = -(-int(own[n]) // BLOCK)
        ids = (*range(first, first + prefix_blocks), *range(next_id, next_id + blocks))
        next_id = (next_id + blocks) % _LARGEST
        yield TraceRequest(float(at[n]), prefix_blocks * BLOCK + int(own[n]), int(reply[n]), ids)


def write_trace(path: Path, requests: Iterable[TraceRequest]) -> None:
    """Write requests to a file, a line each. Raises `InvalidInputError` where it cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{request.line()}\n" for request in requests)
    except OSError as error:
        raise InvalidInputError(f"simulate: {path}: cannot be written: {error.strerror}") from error
