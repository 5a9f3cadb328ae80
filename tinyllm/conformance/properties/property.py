"""What a property is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyllm.conformance.example import DTYPES
from tinyllm.conformance.properties.search import Draws
from tinyllm.conformance.subject import Subject


@dataclass(frozen=True)
class Property:
    """Something that holds between outputs of one kernel, or of kernels of one backend, whatever the numbers are.

    test: draws inputs, compares outputs with one another, and gives "" or what is wrong.
    dtypes: those it holds in.
    """

    name: str
    op: str
    test: Callable[[Subject, Draws], str]
    dtypes: tuple[str, ...] = DTYPES
