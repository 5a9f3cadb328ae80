"""The zoo of wrong kernels: what the conformance kit must catch, each a mistake that real kernels make.

They are there to test the kit (a kit that lets one through is broken), and to learn from: what may go wrong, and what
shows it.
"""

from __future__ import annotations

from tests.conformance.zoo import (
    arrays,
    attention,
    elements,
    extremes,
    features,
    halves,
    layers,
    moe,
    pages,
    process,
    quantized,
    recurrent,
    rope,
    rows,
    sizes,
    state,
)
from tests.conformance.zoo.cage import ZooBackend, caught, first_caught, results, zoo_registry
from tests.conformance.zoo.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *attention.MUTANTS,
    *rope.MUTANTS,
    *layers.MUTANTS,
    *moe.MUTANTS,
    *rows.MUTANTS,
    *elements.MUTANTS,
    *pages.MUTANTS,
    *recurrent.MUTANTS,
    *quantized.MUTANTS,
    *arrays.MUTANTS,
    *state.MUTANTS,
    *process.MUTANTS,
)
"""All that are tried one by one; name and op together are unique."""

BY_VALUES: dict[str, tuple[Mutant, ...]] = {
    "steps in 16 bits": halves.MUTANTS,
    "features at a size": features.MUTANTS,
    "sizes": sizes.MUTANTS,
    "NaN and infinity": extremes.MUTANTS,
}
"""Many more by what they have in common, all of which outputs show: those of an op are tried side by side."""

__all__ = ["BY_VALUES", "MUTANTS", "Mutant", "ZooBackend", "caught", "first_caught", "results", "zoo_registry"]
