"""Ready-made attribute checks: each gives a function that says None (fine) or what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Check = Callable[[Any], str | None]
LARGEST = 2**63 - 1
"""Of an integer that array libraries take: a larger one would end in an error of theirs."""


def integer(minimum: int | None = None) -> Check:
    """A whole number of 64 bits, not a bool, of at least `minimum`."""
    expected = "an integer" if minimum is None else f"an integer of at least {minimum}"

    def check(value: Any) -> str | None:
        if (
            not isinstance(value, (int, np.integer))
            or isinstance(value, bool)
            or (minimum is not None and value < minimum)
        ):
            return expected
        return None if abs(int(value)) <= LARGEST else f"{expected} within 64 bits"

    return check


def number(above: float | None = None, minimum: float | None = None) -> Check:
    """A finite number, above `above` or at least `minimum`."""
    expected = "a finite number"
    if above is not None:
        expected += f" above {above:g}"
    if minimum is not None:
        expected += f" of at least {minimum:g}"

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            return expected
        if isinstance(value, (int, np.integer)):
            if abs(int(value)) > LARGEST:
                return f"{expected}, a whole one within 64 bits"
        elif not math.isfinite(value):
            return expected
        return None if (above is None or value > above) and (minimum is None or value >= minimum) else expected

    return check


def boolean(value: Any) -> str | None:
    """True or False and nothing that merely behaves so."""
    return None if isinstance(value, (bool, np.bool_)) else "True or False"


def choice(*allowed: Any) -> Check:
    """One of the listed values."""
    expected = "one of " + ", ".join(map(repr, allowed))
    return lambda value: (
        None if any(value is a or (type(value) is type(a) and value == a) for a in allowed) else expected
    )


def optional(check: Check) -> Check:
    """None, or what `check` takes."""

    def checked(value: Any) -> str | None:
        expected = None if value is None else check(value)
        return f"None or {expected}" if expected else None

    return checked


def instance(kind: type) -> Check:
    """An object of a class."""
    return lambda value: None if isinstance(value, kind) else f"a {kind.__name__}"
