"""From what was asked for to the checks, neighbours sharing their data; and ids back to checks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from tinyllm.conformance.checks.again import again
from tinyllm.conformance.checks.arrays import OP as ARRAYS
from tinyllm.conformance.checks.arrays import arrays
from tinyllm.conformance.checks.calls import calls
from tinyllm.conformance.checks.check import TIERS, Check, Plan, Trial
from tinyllm.conformance.checks.layouts import layouts
from tinyllm.conformance.checks.oracles import oracles
from tinyllm.conformance.checks.process import process
from tinyllm.conformance.checks.properties import properties
from tinyllm.conformance.checks.refusals import errors, refusals
from tinyllm.conformance.checks.signatures import signatures
from tinyllm.conformance.checks.threads import threads
from tinyllm.conformance.checks.unread import unread
from tinyllm.conformance.checks.values import repeats, values
from tinyllm.conformance.example import DTYPES
from tinyllm.conformance.fuzz import fuzz
from tinyllm.conformance.node_case import case_checks, is_case_file
from tinyllm.conformance.shapes import read_shapes
from tinyllm.conformance.solution import add_solution
from tinyllm.definitions.solution import KERNEL
from tinyllm.errors import InvalidInputError, UnknownNameError, quoted, suggest
from tinyllm.plugins.kernel import EVERY_CPU
from tinyllm.plugins.oracle import ONNX
from tinyllm.registry.registry import Registry

ASPECTS: dict[str, Callable[[Trial], Iterator[Check]]] = {
    "process": process,
    "signatures": signatures,
    "values": values,
    "repeats": repeats,
    "again": again,
    "layouts": layouts,
    "unread": unread,
    "calls": calls,
    "threads": threads,
    "errors": errors,
    "refusals": refusals,
    "properties": properties,
    "fuzz": fuzz,
    "oracles": oracles,
}
"""All that is looked at, in the order of a report."""


WITHOUT_KERNEL = ("composed", "reference")
"""Stand for a kernel's name where an op has none."""


def trials(registry: Registry, plan: Plan) -> list[Trial]:
    """A trial for each op that was asked for.

    Raises:
        UnknownNameError: an op, kernel, dtype, scheme, tier or oracle that is not there, with the nearest name.
        BackendUnavailableError: the backend cannot run here, with what to do about it.
    """
    backend = registry.backend(plan.backend)
    if plan.solution and not any(k.id == f"{backend.name}/{plan.ops[0]}:{KERNEL}" for k in registry.plugins.kernels):
        add_solution(registry, backend, plan.ops[0], plan.solution, plan.definitions)
    for kind, names, known in (
        ("tier", plan.tiers, TIERS),
        ("dtype", plan.dtypes, DTYPES),
        ("op", plan.ops, (*registry.specs, ARRAYS)),
        (
            "kernel",
            plan.kernels,
            (*(k.name for k in registry.plugins.kernels if k.backend in (backend.name, EVERY_CPU)), *WITHOUT_KERNEL),
        ),
        ("scheme", plan.schemes, registry.plugins.schemes),
        ("oracle", plan.oracles, (ONNX, *registry.plugins.oracles)),
    ):
        for name in names:
            if name not in known:
                raise UnknownNameError(f"unknown {kind} {name!r}.{suggest(name, known)}")
    return [
        Trial(registry, backend, spec, plan)
        for name, spec in registry.specs.items()
        if not plan.ops or name in plan.ops
    ]


def collect(registry: Registry, plan: Plan) -> list[Check]:
    """The checks of a plan.

    Raises:
        UnknownNameError: as `trials` does; no check has the id asked for, with the nearest ones; or the shapes file
            lacks an op asked for.
    """
    if is_case_file(plan.case):
        return list(case_checks(registry, plan))
    found = list(arrays(registry.backend(plan.backend), plan)) if not plan.shapes and not plan.solution else []
    asked = trials(registry, plan)
    for op in plan.ops if plan.shapes else ():
        if op not in (known := read_shapes(plan.shapes, registry.specs, registry.plugins.schemes)):
            raise UnknownNameError(
                f"shapes file {plan.shapes}: has no call of {quoted(op)}, only of {', '.join(known)}"
            )
    for trial in asked:
        if trial.cases or not plan.shapes:
            found += [check for aspect in ASPECTS.values() for check in aspect(trial)]
    return found if not plan.case else _named(found, plan.case)


def expect_id(case: str, registry: Registry) -> None:
    """Raises `InvalidInputError` for a `--case` that can be no check's: one without its inputs in brackets."""
    if case and "[" not in case:
        near = difflib.get_close_matches(case.partition(":")[0], registry.specs, n=1, cutoff=0.7)
        told = f"; --op {near[0]} runs all checks of that op" if near else ""
        expected = "a check such as 'sdpa[L3,S5,D4,f32]', or a file that is there"
        raise InvalidInputError(f"check: --case: expected {expected}, got {quoted(case)}{told}")


def _named(checks: list[Check], wanted: str) -> list[Check]:
    """Those whose id is this, or ends in this where the backend, the kernel or the dtype is left out."""
    found = [c for c in checks if wanted in _names(c)]
    if not found:
        ids = list(dict.fromkeys(name for c in checks for name in _names(c)))
        near = difflib.get_close_matches(wanted, ids, n=3, cutoff=0.3)
        closest = f" The closest are: {', '.join(near)}." if near else ""
        raise UnknownNameError(f"no check is called {wanted!r} among the {len(checks)} of this plan.{closest}")
    return found


def _names(check: Check) -> set[str]:
    """The id, and its shorter forms: without the backend, the kernel, the dtype."""
    who, _, inner = check.id.partition("[")
    case = inner.partition("]")[0]
    aspect = f"/{check.aspect}" if check.aspect else ""
    kernel = who.partition("/")[2]
    insides = {case, check.case} if check.case else {case}
    return {
        f"{w}[{i}]{aspect}" for w in (who, who.partition(":")[0], kernel, kernel.partition(":")[0]) for i in insides
    }
