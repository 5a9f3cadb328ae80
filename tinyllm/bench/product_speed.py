"""How fast products with a few rows are: a step of a few sequences is bound neither by reading weights nor by what can
be computed at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log2

import numpy as np

from tinyllm.bench.kept_limits import ROUNDS, kept_numbers
from tinyllm.bench.limits import measure_rows
from tinyllm.registry.registry import Registry
from tinyllm.spec.scheme import Scheme

ROWS = (2, 8, 64, 512)
SIDES = (512, 4096)
"""The least and the most rows and columns of weights that are measured, in powers of two."""


@dataclass(frozen=True)
class ProductSpeed:
    """gflop_s: of products, by their number of rows, the fewest first."""

    gflop_s: Mapping[int, float]

    def seconds(self, rows: int, flops: int) -> float:
        """The time of a product of so many rows and operations: between numbers of rows that were measured it grows
        evenly. 0 for fewer: what is read takes longer."""
        fewest, most = min(self.gflop_s), max(self.gflop_s)
        if rows < fewest:
            return 0.0
        for (low, slow), (high, fast) in pairwise(self.gflop_s.items()):
            if rows <= high:
                share = (rows - low) / (high - low)
                return flops / rows * ((1 - share) * low / slow + share * high / fast) / 1e9
        return flops / self.gflop_s[most] / 1e9


def kept_product_speed(
    registry: Registry,
    backend: str,
    scheme: Scheme | None = None,
    side: int = SIDES[1],
    *,
    anew: bool = False,
    on_step: Callable[[str], None] = lambda what: None,
) -> ProductSpeed:
    """That of a backend; measured once, and kept as `kept_limits` is.

    Args:
        scheme: of the weights; None: float32. side: rows and columns that they have: small ones are slower.
        anew, on_step: as `kept_limits` has them.
    """
    side = 1 << round(log2(min(max(side, SIDES[0]), SIDES[1])))
    kind = f"{scheme or 'float32'} {side} rows"

    def measure() -> dict[str, float]:
        from tinyllm.bench.ops import product

        on_step(f"{backend}: measuring products: {kind}")
        loaded = registry.backend(backend)
        with loaded.step_context(), np.errstate(all="ignore"):
            call = partial(product, registry, loaded)
            found = measure_rows(loaded, call, ROWS, side, scheme, ROUNDS)
            return {str(rows): speed for rows, speed in found.items()}

    found = kept_numbers(registry, backend, kind, {str(rows) for rows in ROWS}, measure, anew)
    return ProductSpeed({rows: found[str(rows)] for rows in ROWS})
