"""How long a step should take: of each node the longer of what it moves and what it computes, by this machine's limits,
and what the step costs besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt

from tinyllm.bench.kept_limits import kept_limits
from tinyllm.bench.limits import Limits
from tinyllm.bench.product_speed import ProductSpeed, kept_product_speed
from tinyllm.bench.step_cost import StepCost, kept_step_cost
from tinyllm.graph.tools.plan import NodeCost
from tinyllm.registry.registry import Registry
from tinyllm.spec.scheme import Scheme


@dataclass(frozen=True)
class Speeds:
    """What this machine reaches on a backend. limits, products: by scheme of the weights; None: floats, or no
    weights. others: by name, of the backends that run some of the nodes in its place."""

    limits: dict[Scheme | None, Limits] = field(default_factory=dict)
    products: dict[Scheme | None, ProductSpeed] = field(default_factory=dict)
    step: StepCost = field(default_factory=lambda: StepCost(0.0, 0.0, 0.0))
    others: Mapping[str, Speeds] = field(default_factory=dict)

    def node_seconds(self, cost: NodeCost) -> float:
        """Of a node, without what each node costs besides."""
        if cost.backend in self.others:
            return self.others[cost.backend].node_seconds(cost)
        limits = self.limits[cost.scheme]
        computing = cost.flops / limits.gflop_s / 1e9
        if cost.rows:
            computing = self.products[cost.scheme].seconds(cost.rows, cost.flops)
        return max(cost.bytes / limits.gb_s / 1e9, computing)

    def call_seconds(self, cost: NodeCost) -> float:
        """Of a node, with what each node costs besides."""
        return self.node_seconds(cost) + self.others.get(cost.backend, self).step.node

    def step_seconds(self, costs: list[NodeCost], sequences: int) -> float:
        """Of a step of these nodes, in which so many sequences get a token."""
        return sum(map(self.call_seconds, costs)) + self.step.seconds(0, sequences)


def kept_speeds(
    registry: Registry,
    backend: str,
    costs: list[NodeCost],
    weights: int,
    *,
    anew: bool = False,
    on_step: Callable[[str], None] = lambda what: None,
) -> Speeds:
    """All that the time of these nodes depends on, by the backend of each; what was not measured on this machine yet is
    measured now.

    Args:
        backend: that of the step, and of nodes that name none. weights: bytes of all weights of the model.
        anew, on_step: as `kept_limits` has them.
    """
    elsewhere: dict[str, list[NodeCost]] = {}
    for cost in costs:
        elsewhere.setdefault(cost.backend or backend, []).append(cost)
    costs = elsewhere.pop(backend, [])
    schemes = dict.fromkeys([None, *(cost.scheme for cost in costs)])
    multiplied = [cost for cost in costs if cost.rows]
    side = round(sqrt(sum(cost.flops / cost.rows / 2 for cost in multiplied) / max(1, len(multiplied))))
    products = dict.fromkeys(cost.scheme for cost in multiplied)
    return Speeds(
        {s: kept_limits(registry, backend, s, weights, anew=anew, on_step=on_step) for s in schemes},
        {s: kept_product_speed(registry, backend, s, side, anew=anew, on_step=on_step) for s in products},
        kept_step_cost(registry, backend, anew=anew, on_step=on_step),
        {
            name: kept_speeds(registry, name, theirs, weights, anew=anew, on_step=on_step)
            for name, theirs in elsewhere.items()
        },
    )
