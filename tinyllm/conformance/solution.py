"""A kernel that somebody else wrote, on trial as one of a backend's."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

from tinyllm.definitions.cases import cases_of
from tinyllm.definitions.definition import Definition
from tinyllm.definitions.read import read_definition, read_workloads
from tinyllm.definitions.solution import KERNEL, adapted, load, read_solution
from tinyllm.errors import InvalidInputError
from tinyllm.plugins.backend import Backend
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry
from tinyllm.spec.cases import Case
from tinyllm.spec.types import Call


def planned(registry: Registry, solution: str, definitions: str, op: str) -> tuple[str, str]:
    """The op that a solution is for and the folder of its definition, empty for plain Python.

    Nothing of the file is run.

    Args:
        definitions: the folder; empty: the nearest above the file that has definitions.
        op: the one that was asked for; plain Python has to be told.

    Raises:
        InvalidInputError, UnknownNameError, UnsupportedError: the file, its definition or its op is not one that can be
            judged.
    """
    path = Path(solution)
    found = read_solution(path)
    if not found.definition:
        if not op:
            raise InvalidInputError(f"{path}: expected --op, the op that its run computes (--ops of bench ops)")
        registry.spec(op)
        return op, ""
    folder = Path(definitions) if definitions else _nearest(path)
    definition = read_definition(folder, found.definition, registry.specs)
    cases_of(definition, read_workloads(folder, definition))  # what is wrong with them is told now
    own = definition.spec.name
    if op and op != own:
        raise InvalidInputError(f"{path}: --op: expected {own}, the op of its definition, got {op}")
    return own, str(folder)


def _nearest(path: Path) -> Path:
    """The folder above a file that has definitions."""
    for folder in path.absolute().parents:
        if (folder / "definitions").is_dir():
            return folder
    raise InvalidInputError(f"{path}: no folder above it has definitions; name one with --definitions")


def add_solution(registry: Registry, backend: Backend, op: str, path: str, definitions: str) -> None:
    """Put a solution to the kernels of a backend; its code runs when the kernel is first used. `definitions`: empty for
    plain Python."""
    solution = read_solution(Path(path))
    definition = definition_of(registry, path, definitions) if definitions else None

    @cache
    def function() -> Callable[..., Any]:
        folder = Path(tempfile.mkdtemp(prefix="tinyllm-solution-"))
        atexit.register(rmtree, folder, ignore_errors=True)
        loaded = load(solution, folder)
        return loaded if definition is None else adapted(solution, loaded, definition, backend)

    def supports(call: Call) -> bool | str:
        return True if definition is None else definition.declines(call) or True

    registry.plugins.kernels.append(Kernel(backend.name, op, KERNEL, function, supports, priority=2**31))


def solution_cases(registry: Registry, path: str, definitions: str) -> list[Case]:
    """The calls of the definition that a solution names."""
    definition = definition_of(registry, path, definitions)
    return cases_of(definition, read_workloads(Path(definitions), definition))


def definition_of(registry: Registry, path: str, definitions: str) -> Definition:
    """The definition that a solution names."""
    return read_definition(Path(definitions), read_solution(Path(path)).definition, registry.specs)
