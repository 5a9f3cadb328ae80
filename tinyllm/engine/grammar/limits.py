"""What compiling a stranger's grammar may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyllm.settings.known import known_settings
from tinyllm.settings.read import Setting


def _default(name: str) -> Any:
    return field(default_factory=lambda: known_settings()[name].default)


@dataclass(frozen=True)
class GrammarLimits:
    """The bounds.

    Args:
        seconds: processor time that one grammar may take.
        memory: bytes that one grammar may take, where the system can hold a process to that.
        cache: bytes that all compiled grammars may have together, those of replies that are written included.
        characters: of a grammar, in the form that `Grammar` has.
        waiting: grammars that may wait to be compiled.
        patience: how many times its processor time a grammar may take on a machine that is busy.
    """

    seconds: float = _default("grammar_seconds")
    memory: int = _default("grammar_memory")
    cache: int = _default("grammar_cache")
    characters: int = 512 << 10
    waiting: int = 256
    patience: float = 30.0

    @classmethod
    def of(cls, settings: Mapping[str, Setting]) -> GrammarLimits:
        """Those that the settings say."""
        names = ("seconds", "memory", "cache")
        return cls(*(settings[f"grammar_{name}"].value for name in names))
