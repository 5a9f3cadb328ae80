"""Outside judges, asked for by name."""

from __future__ import annotations

from collections.abc import Iterator

from tinyllm.conformance.checks.check import Check, Trial

ORACLES = ("onnx", "torch")


def oracles(trial: Trial) -> Iterator[Check]:
    """The cases of the oracles asked for."""
    yield from ()
