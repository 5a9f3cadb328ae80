"""One check by its id, in the hand: what a failure's snippet calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.conformance.checks.check import TIERS, Plan, Trial
from tinyllm.conformance.collect import collect
from tinyllm.errors import UnknownNameError
from tinyllm.registry.registry import Registry, default_registry


def reproduce(
    check_id: str, *, seed: int = 0, shapes: str = "", registry: Registry | None = None
) -> tuple[Mapping[str, Any], Mapping[str, Any], tuple[Any, ...], tuple[Any, ...]]:
    """Inputs, attributes, what the kernel gives, and what the float64 reference says.

    Args:
        check_id: as a report prints it, `torch/sdpa:fused[L3,S5,D4,f32]`.

    Raises:
        UnknownNameError: no whole id, no such check, or one that is not about the outputs of a case.
    """
    registry = registry or default_registry()
    backend, slash, rest = check_id.partition("/")
    if not slash or "[" not in rest:
        raise UnknownNameError(f"{check_id}: expected the whole id of a check, such as torch/sdpa:fused[L3,S5,D4,f32]")
    op = rest.partition("[")[0].partition(":")[0]
    plan = Plan(backend, TIERS, ops=(op,), case=check_id, seed=seed, shapes=shapes)
    check = collect(registry, plan)[0]
    trial = Trial(registry, registry.backend(backend), registry.spec(op), plan)
    case = next((c for c in trial.cases if c.id == check.case), None)
    if case is None or check.subject is None or check.aspect or not check.dtype:
        raise UnknownNameError(
            f"{check_id}: not about the outputs of a case; run it with: tinyllm check {backend} --case {check_id!r}"
        )
    example = trial.example(case, check.dtype)
    return example.inputs, example.attributes, check.subject(example), example.expected
