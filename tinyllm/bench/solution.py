"""A kernel that somebody else wrote, as `bench ops --solution` measures it."""

from __future__ import annotations

from pathlib import Path

from tinyllm.bench.ops import DTYPE, Subjects, bench_cases
from tinyllm.conformance.solution import add_solution, definition_of, planned, solution_cases
from tinyllm.definitions.cases import WORKLOAD
from tinyllm.definitions.solution import KERNEL
from tinyllm.errors import InvalidInputError
from tinyllm.registry.registry import Registry


def of_solution(path: Path, definitions: str, ops: list[str], backend: str) -> tuple[Registry, list[str], Subjects]:
    """A registry of its own in which a backend runs the file's kernel, the one op, and what is measured of it: the
    workloads of its definition, or the op's own cases.

    Raises as `planned` does.
    """
    if len(ops) > 1:
        raise InvalidInputError(f"bench ops: --solution is one kernel of one op, got {len(ops)} in --ops")
    registry = Registry()
    op, folder = planned(registry, str(path), definitions, ops[0] if ops else "")
    loaded = registry.backend(backend)
    add_solution(registry, loaded, op, str(path), folder)
    registry.pins[loaded.name, op] = KERNEL
    if not folder:
        return registry, [op], Subjects(bench_cases, DTYPE, backend)
    tried = solution_cases(registry, str(path), folder)
    cases = [case for case in tried if case.id.startswith(WORKLOAD)] or tried
    typed = definition_of(registry, str(path), folder).call.dims.get("dtype of T")
    return registry, [op], Subjects(lambda spec: cases, typed[1] if typed else DTYPE, backend)
