"""A step as `tinyllm trace` shows it: of each node, and of all nodes of a kernel, what they took, and what of the
machine's limits they reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tinyllm.bench.limits import Limits
from tinyllm.graph.observe import Ran
from tinyllm.graph.tools.cost import Sizes, node_cost
from tinyllm.plugins.backend import BoundNode
from tinyllm.spec.op_spec import OpSpec


@dataclass(frozen=True)
class Row:
    """A node, or several of one kernel.

    nodes: how many. seconds: that they took. flops, bytes: what they computed, and what they read and wrote. least:
    seconds that this takes at the machine's limits; None where those are not known.
    """

    name: str
    op: str
    kernel: str
    backend: str
    nodes: int
    seconds: float
    flops: int
    bytes: int
    least: float | None

    @property
    def gb_s(self) -> float | None:
        """Gigabytes a second; None where nothing was moved, or in no time that was measured."""
        return self.bytes / self.seconds / 1e9 if self.bytes and self.seconds else None

    @property
    def gflop_s(self) -> float | None:
        """GFLOP/s; None where nothing was computed, or in no time that was measured."""
        return self.flops / self.seconds / 1e9 if self.flops and self.seconds else None

    @property
    def of_limit(self) -> float | None:
        """The share of what the machine can do at most: of its bandwidth or its arithmetic, whichever binds. Above 1
        where what was read lay in a cache, as limits are those of memory."""
        return self.least / self.seconds if self.least and self.seconds else None


def node_rows(
    ran: Iterable[Ran], specs: Mapping[str, OpSpec], sizes: Sizes, limits_of: Callable[[BoundNode], Limits | None]
) -> list[Row]:
    """A row for each node of a step, in the order in which they ran."""
    rows = []
    for one in ran:
        node, cost, limits = one.node, node_cost(one.node, specs, sizes), limits_of(one.node)
        least = (limits.share(cost.bytes, cost.flops, 1.0) or 0.0) if limits else None
        where = f"{node.backend.name}:{node.backend.device}"
        rows.append(Row(node.name, node.op, node.kernel, where, 1, one.seconds, cost.flops, cost.bytes, least))
    return rows


def by_kernel(rows: Iterable[Row]) -> list[Row]:
    """The same with a row for each kernel, which is its name, the longest first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.kernel, row.backend), []).append(row)
    return slowest_first(
        Row(
            kernel,
            same[0].op,
            kernel,
            backend,
            len(same),
            sum(row.seconds for row in same),
            sum(row.flops for row in same),
            sum(row.bytes for row in same),
            None if any(row.least is None for row in same) else sum(row.least or 0.0 for row in same),
        )
        for (kernel, backend), same in found.items()
    )


def slowest_first(rows: Iterable[Row]) -> list[Row]:
    """Sorted by the time that they took."""
    return sorted(rows, key=lambda row: -row.seconds)
