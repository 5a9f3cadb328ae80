"""A kernel that somebody else wrote, in a file: a solution of FlashInfer-Bench, or plain Python with `run`.

Reading a file runs nothing of it; `load` does.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyllm.definitions.definition import Definition
from tinyllm.definitions.schema import SolutionFile, inside, read, text_of
from tinyllm.errors import InvalidInputError, PluginError, UnsupportedError, plugin_code
from tinyllm.plugins.backend import Backend
from tinyllm.spec.types import INTEGERS

KERNEL = "solution"
"""The name of the kernel that a solution is."""
PACKAGE = "tinyllm_solution"
"""What the sources are imported as."""


@dataclass(frozen=True)
class Solution:
    """What a file says. definition: the name of one, empty for plain Python, whose `run` has the op's own signature.
    into: whether `run` writes its outputs into arrays that are given behind the inputs."""

    path: Path
    definition: str
    sources: Mapping[str, str]
    entry: str
    function: str
    into: bool


def read_solution(path: Path) -> Solution:
    """A `.py` file, or a solution in JSON.

    Raises:
        InvalidInputError: no such file, no solution, or one with a field that does not fit.
        UnsupportedError: its language is not Python.
    """
    if path.suffix == ".py":
        return Solution(path, "", {"main.py": text_of(path)}, "main.py", "run", False)
    given = read(SolutionFile, path)
    if given.spec.language != "python":
        raise UnsupportedError(f"{path}: spec.language: only python is run here, got {given.spec.language!r}")
    sources = {source.path: source.content for source in given.sources}
    for name in sources:
        if not inside(name):
            raise InvalidInputError(f"{path}: sources: expected paths within a folder, got {name!r}")
    entry, _, function = given.spec.entry_point.partition("::")
    if entry not in sources or not entry.endswith(".py"):
        known = ", ".join(sources)
        raise InvalidInputError(f"{path}: spec.entry_point: expected a Python file among {known}, got {entry!r}")
    return Solution(path, given.definition, sources, entry, function, given.spec.destination_passing_style)


def load(solution: Solution, folder: Path) -> Callable[..., Any]:
    """Write the sources into a folder, import them as a package and give the function. This runs the file's code.

    Raises:
        PluginError: an import fails, or the function is not there.
    """
    place = folder / PACKAGE
    for name, text in solution.sources.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    for old in [module for module in sys.modules if f"{module}.".startswith(f"{PACKAGE}.")]:
        del sys.modules[old]  # an earlier one's
    sys.modules[PACKAGE] = package = ModuleType(PACKAGE)
    package.__path__ = [str(place)]
    name = f"{PACKAGE}.{solution.entry.removesuffix('.py').replace('/', '.')}"
    with plugin_code(f"{solution.path.name}: import of {solution.entry}"):
        module = importlib.import_module(name)
    function: Callable[..., Any] | None = getattr(module, solution.function, None)
    if not callable(function):
        raise PluginError(f"{solution.path.name}: {solution.entry} has no function {solution.function!r}")
    return function


def adapted(solution: Solution, function: Callable[..., Any], definition: Definition, backend: Backend) -> Any:
    """A solution as a kernel of the op: it takes what the op takes, and gives its outputs.

    Inputs are made contiguous, as FlashInfer-Bench's are. Arrays to write into are filled with NaN, or the least
    integer, so that what is not written shows.

    Raises:
        PluginError: the function does not take the definition's inputs, and outputs where it writes into them.
    """
    outputs = tuple(definition.outputs) if solution.into else ()
    names = tuple(definition.inputs)
    try:
        inspect.signature(function).bind(*names, *outputs)
    except (TypeError, ValueError) as error:
        wanted = f"{solution.function}({', '.join((*names, *outputs))})"
        raise PluginError(f"{solution.path.name}: expected a function that is called as {wanted}: {error}") from error
    positional = [i.name for i in definition.spec.positional]
    defaults = {name: definition.spec.signature.parameters[name].default for name in definition.scalars}

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = defaults | dict(zip(positional, args, strict=False)) | kwargs
        inputs = [given[name] if name in definition.scalars else _contiguous(given[name]) for name in names]
        if not outputs:
            return _outputs(function(*inputs), definition)
        made = poisoned(definition, {n: tuple(given[n].shape) for n in names if n not in definition.scalars}, backend)
        function(*inputs, *made)
        return made if len(made) > 1 or definition.spec.gives_many else made[0]

    return kernel


def _contiguous(array: Any) -> Any:
    """The array in the order of its axes."""
    return array.contiguous() if hasattr(array, "contiguous") else np.ascontiguousarray(array).reshape(array.shape)


def _outputs(given: Any, definition: Definition) -> Any:
    """What a function gave, as kernels give it: an array, or a tuple of several."""
    if isinstance(given, dict):
        given = tuple(given.get(name) for name in definition.outputs)
    if isinstance(given, list):
        given = tuple(given)
    several = len(definition.outputs) > 1 or definition.spec.gives_many
    return given[0] if not several and isinstance(given, tuple) and len(given) == 1 else given


def poisoned(definition: Definition, shapes: Mapping[str, tuple[int, ...]], backend: Backend) -> tuple[Any, ...]:
    """Outputs to write into, each number of which is wrong."""
    sizes = definition.sizes(shapes)
    made = []
    for tensor in definition.outputs.values():
        array = backend.zeros(definition.shape(tensor, sizes), tensor.dtype)
        array[...] = int(np.iinfo(tensor.dtype).min) if tensor.dtype in INTEGERS else np.nan
        made.append(array)
    return tuple(made)
