"""What a setting may be: its type, its range, and how text and TOML values become it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tinyllm.errors import ConfigError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Bytes(int):
    """A number of bytes, written as an integer or with a unit: `4MB`, `512 KiB`."""

    @classmethod
    def parse(cls, text: str) -> Bytes:
        """The number that a text stands for. Raises `ValueError` for other text."""
        match = re.fullmatch(r"([0-9]+) ?([A-Za-z]*)", text.strip())
        if not match or match[2].upper() not in _UNITS:
            raise ValueError(text)
        return cls(int(match[1]) * _UNITS[match[2].upper()])


@dataclass(frozen=True)
class Kind:
    """The values that a setting may have. Every method raises `ConfigError`, which begins with `where`.

    Args:
        type: str, int, float, bool, `Bytes`, or list (of str).
        low, high: the bounds of a number, both allowed; None: unbounded.
        choices: the only texts that are allowed; empty: any.
        secret: the value is shown to nobody.
    """

    type: type
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    def from_file(self, where: str, value: Any) -> Any:
        """A value of a TOML file in the setting's type."""
        if self.type is Bytes and isinstance(value, str):
            return self.from_text(where, value)
        if self.type is list:
            fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        else:
            fits = type(value) is self.type or (type(value) is int and self.type in (float, Bytes))
        if not fits:
            names = {list: "a list of str", Bytes: "bytes, as an integer or text such as '4MB'"}
            raise self._error(where, names.get(self.type, self.type.__name__), value)
        return self.in_range(where, value if self.type is list else self.type(value))

    def from_text(self, where: str, text: str) -> Any:
        """The text of an environment variable in the setting's type; the items of a list are divided by commas."""
        if self.type is bool:
            if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
                raise self._error(where, "1 or 0", text)
            return text.lower() in ("1", "true", "yes", "on")
        if self.type is list:
            return [item.strip() for item in text.split(",") if item.strip()]
        try:
            value = Bytes.parse(text) if self.type is Bytes else self.type(text)
        except ValueError as error:
            expected = "bytes, such as 4000000, 4MB or 4MiB" if self.type is Bytes else self.type.__name__
            raise self._error(where, expected, text) from error
        return self.in_range(where, value)

    def in_range(self, where: str, value: Any) -> Any:
        """The value itself, where it lies within the bounds and is one of the choices."""
        if self.choices and value not in self.choices:
            raise self._error(where, f"one of {', '.join(self.choices)}", value)
        if self.low is None:
            return value
        if not self.low <= value <= (value if self.high is None else self.high):  # false for nan, too
            number = {int: "an integer", float: "a number", Bytes: "a number of bytes"}[self.type]
            bounds = f"of at least {self.low:g}" if self.high is None else f"from {self.low:g} to {self.high:g}"
            raise self._error(where, f"{number} {bounds}", value)
        return value

    def _error(self, where: str, expected: str, value: Any) -> ConfigError:
        return ConfigError(f"{where}: expected {expected}, got {type(value).__name__ if self.secret else repr(value)}")


TEXT, FLAG, NAMES, COUNT = Kind(str), Kind(bool), Kind(list), Kind(int, low=1)
