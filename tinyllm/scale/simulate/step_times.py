"""How long a step takes: a table by the tokens of prompts and the number of decoding sequences in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tinyllm.errors import InvalidInputError, invalid

FORMAT = "tinyllm step times"
VERSION = 1


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step, measured where the table has a value and linear between.

    Args:
        prompt_tokens, decoding: the rows and columns of the table, rising from 0.
        seconds: a row for each of `prompt_tokens`, in it a value for each of `decoding`; that of nothing is 0.
        about: what was measured, for people.
    """

    prompt_tokens: tuple[int, ...]
    decoding: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    about: str = ""
    _known: dict[tuple[int, int], int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, axis in (("prompt_tokens", self.prompt_tokens), ("decoding", self.decoding)):
            whole = all(type(value) is int for value in axis)
            if not whole or len(axis) < 2 or axis[0] or any(b <= a for a, b in pairwise(axis)):
                raise invalid("step times", name, "at least two rising integers, the first 0", repr(axis))
        width = {len(row) for row in self.seconds}
        numbers = all(type(v) in (int, float) and 0 <= v < float("inf") for row in self.seconds for v in row)
        if len(self.seconds) != len(self.prompt_tokens) or width != {len(self.decoding)} or not numbers:
            expected = f"{len(self.prompt_tokens)} rows of {len(self.decoding)} numbers of at least 0"
            raise invalid("step times", "seconds", expected, repr(self.seconds))

    def nanoseconds(self, prompt_tokens: int, decoding: int) -> int:
        """Of a step, at least 1. Beyond the table the slope of its last two values goes on.

        They are whole numbers, so that k equal steps take exactly k times as long as one.
        """
        key = prompt_tokens, decoding
        found = self._known.get(key)
        if found is None:
            row, down = _between(self.prompt_tokens, prompt_tokens)
            column, right = _between(self.decoding, decoding)
            (a, b), (c, d) = (line[column : column + 2] for line in self.seconds[row : row + 2])
            seconds = (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)
            found = self._known[key] = max(1, round(1e9 * seconds))
        return found

    def write(self, path: Path) -> None:
        """Write the table to a file. Raises `InvalidInputError` where it cannot be written."""
        fields = {"prompt_tokens": self.prompt_tokens, "decoding": self.decoding, "seconds": self.seconds}
        document = {"format": FORMAT, "version": VERSION, "about": self.about, **fields}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidInputError(f"simulate: {path}: cannot be written: {error.strerror}") from error

    @staticmethod
    def read(path: Path) -> StepTimes:
        """The table in a file. Raises `InvalidInputError` where there is none."""
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            why = f"{error.strerror}; measure one with --measure MODEL"
            raise InvalidInputError(f"simulate: {path}: no table of step times: {why}") from error
        except ValueError as error:
            raise InvalidInputError(f"simulate: {path}: expected a table of step times, got no JSON") from error
        if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (FORMAT, VERSION):
            raise InvalidInputError(f"simulate: {path}: expected format {FORMAT!r} of version {VERSION}, got another")
        try:
            rows = tuple(tuple(row) for row in document["seconds"])
            prompt_tokens, decoding = (tuple(document[name]) for name in ("prompt_tokens", "decoding"))
            return StepTimes(prompt_tokens, decoding, rows, str(document.get("about", "")))
        except (KeyError, TypeError) as error:
            raise InvalidInputError(
                f"simulate: {path}: expected a table of step times, got one that lacks "
                f"prompt_tokens, decoding or seconds"
            ) from error


def _between(axis: tuple[int, ...], value: int) -> tuple[int, float]:
    """The place on an axis before a value, and how far the value lies towards the next: past 1 beyond the end."""
    place = max(n for n, low in enumerate(axis[:-1]) if low <= value)
    return place, (value - axis[place]) / (axis[place + 1] - axis[place])
