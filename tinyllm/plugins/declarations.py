"""What a plugin admits about its kernels: looser bounds, known failures, results that vary. Reported, never silent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase

from tinyllm.errors import PluginError


@dataclass(frozen=True)
class Declaration:
    """What it is about: a backend, glob patterns over names as the conformance kit prints them, and the reason, which
    reports show.

    A plugin declares for a backend that it brings, or for kernels of its own by their name.

    Raises:
        PluginError: no reason is given.
    """

    backend: str
    op: str
    reason: str
    kernel: str = "*"
    dtype: str = "*"
    case: str = "*"
    aspect: str = "*"
    """What of a case is looked at: empty for its outputs, `sliced`, `repeat`, `property`, ..."""

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise PluginError(f"{self.name}: a declaration needs a reason")

    @property
    def name(self) -> str:
        """As errors and reports call it."""
        return f"{type(self).__name__}({self.backend}/{self.op}:{self.kernel}[{self.case},{self.dtype}])"

    def covers(self, backend: str, op: str, kernel: str, dtype: str, case: str, aspect: str) -> bool:
        """Whether a check is what this is about."""
        given = ((self.op, op), (self.kernel, kernel), (self.dtype, dtype), (self.case, case), (self.aspect, aspect))
        return self.backend == backend and all(fnmatchcase(value, pattern) for pattern, value in given)


@dataclass(frozen=True)
class Widened(Declaration):
    """Bounds `factor` times those of the spec."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1.0 < self.factor <= 1000.0:
            raise PluginError(f"{self.name}: factor: expected more than 1, at most 1000, got {self.factor!r}")


@dataclass(frozen=True)
class RoundedSteps(Declaration):
    """Between its steps the kernel rounds to the 16 bits of the call, where others compute in float32 and round once:
    its errors are those of the op in float32 with eps of float16 or bfloat16."""


@dataclass(frozen=True)
class ExpectedFailure(Declaration):
    """Known to fail: `link` to where it is followed up, `since` the day it was found (`2026-01-31`). A pass is then a
    failure."""

    link: str = ""
    since: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.link.startswith(("https://", "http://")):
            raise PluginError(f"{self.name}: link: expected an http(s) address, got {self.link!r}")
        try:
            date.fromisoformat(self.since)
        except ValueError as error:
            raise PluginError(f"{self.name}: since: expected a date like 2026-01-31, got {self.since!r}") from error


@dataclass(frozen=True)
class Unrepeatable(Declaration):
    """The same call twice may differ in its last bits."""
