"""The zoo of wrong kernels: what the conformance kit must catch, each a mistake that real kernels make.

They are there to test the kit (a kit that lets one through is broken), and to learn from: what may go wrong, and what
shows it.
"""

from __future__ import annotations

from tests.conformance.zoo import arrays, attention, layers, pages, quantized, rope, rows
from tests.conformance.zoo.cage import ZooBackend, caught, results, zoo_registry
from tests.conformance.zoo.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *attention.MUTANTS,
    *rope.MUTANTS,
    *layers.MUTANTS,
    *rows.MUTANTS,
    *pages.MUTANTS,
    *quantized.MUTANTS,
    *arrays.MUTANTS,
)
"""All of them; name and op together are unique."""

__all__ = ["MUTANTS", "Mutant", "ZooBackend", "caught", "results", "zoo_registry"]
