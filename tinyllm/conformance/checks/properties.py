"""What must hold whatever the numbers are, without a reference."""

from __future__ import annotations

from collections.abc import Iterator

from tinyllm.conformance.checks.check import Check, Trial


def properties(trial: Trial) -> Iterator[Check]:
    """Each property of the op, on every kernel."""
    yield from ()
