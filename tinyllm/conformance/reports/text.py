"""Text that came from a backend, made fit to be shown: no control characters, no directories of the machine it ran
on."""

from __future__ import annotations

import re

_UNFIT = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 does not take or a terminal obeys."""

_DIRECTORIES = re.compile(r"(?<![\w.:/\\-])(?:[A-Za-z]:[\\/]|/)(?:[\w.+@~-]+[\\/])+(?=[\w.+@~-])")


def clean(text: str) -> str:
    """Without characters that a terminal or an XML reader would not take."""
    return _UNFIT.sub("\ufffd", text.replace("\r\n", "\n"))


def without_directories(text: str) -> str:
    """`/srv/lib/file.so` as `file.so`: reports travel, and say nothing of where they come from."""
    return _DIRECTORIES.sub("", text)


def plural(number: int, noun: str) -> str:
    """`1 check`, `2 checks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
