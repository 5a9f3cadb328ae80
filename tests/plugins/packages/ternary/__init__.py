"""A third party's way to quantize weights to 1.58 bits. It brings nothing but the scheme: every kernel is somebody
else's."""

from __future__ import annotations

from ternary.scheme import Ternary
from tinyllm.plugins import Scheme, hookimpl

tinyllm_spec_version = 4


@hookimpl
def tinyllm_schemes() -> list[Scheme]:
    """The scheme with its default group."""
    return [Ternary()]
