"""Finds the native library: which levels were compiled, which of them this processor runs, and why there is none.

Cheap, as every look at the backends asks: it reads a record, hashes the sources and opens the smallest library.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from tinyllm.errors import BackendUnavailableError, ConfigError
from tinyllm_native.builder.levels import LIBRARY, SOURCE, levels, library, machine, read_record, sources_hash

VARIABLE = "TINYLLM_NATIVE_ISA"
PORTABLE = "portable"
"""The level that every processor has."""
BUILD = "tinyllm native build"
"""What a user runs where there is no library, or one of other sources."""


class _WrongLibraryError(Exception):
    """A file that is not the library that it should be."""


@dataclass(frozen=True)
class Found:
    """What lies there, and what of it runs here.

    level: the one that is used, empty where there is none. reason: what is there, or why nothing is. levels: those that
    were compiled. runs: the highest that this processor has. compiler: what compiled them.
    """

    level: str
    reason: str
    levels: tuple[str, ...] = ()
    runs: str = ""
    compiler: str = ""


def find_library(folder: Path = LIBRARY, source: Path = SOURCE) -> Found:
    """The highest level that was compiled, that this processor has, and that `TINYLLM_NATIVE_ISA` allows.

    Raises:
        ConfigError: the variable names no level.
    """
    order = list(levels(machine()))
    cap = _cap(order)
    built = read_record(folder)
    if built is None:
        return Found("", "its library was not compiled")
    if built.reason:
        return Found("", f"its library was not compiled: {built.reason}")
    if built.sources != sources_hash(source, machine()):
        return Found("", "its library was built from other sources than those installed")
    try:
        opened = _open(library(folder, PORTABLE), built.sources)
    except _WrongLibraryError as error:
        return Found("", str(error))
    runs = opened.tinyllm_cpu_level()
    level = [name for name in order[: min(runs, cap) + 1] if name in built.levels][-1]
    reason = f"{level} (of {', '.join(built.levels)}), built by {built.compiler}"
    return Found(level, reason, built.levels, order[runs], built.compiler)


def library_path(folder: Path = LIBRARY, source: Path = SOURCE) -> Path:
    """The library of the level that is used.

    Raises:
        BackendUnavailableError: there is none; says why, and the command that builds it.
        ConfigError: `TINYLLM_NATIVE_ISA` names no level.
    """
    found = find_library(folder, source)
    if not found.level:
        raise _unavailable(found.reason)
    return library(folder, found.level)


def open_library(folder: Path = LIBRARY, source: Path = SOURCE) -> ctypes.CDLL:
    """The library of the level that is used, opened, and made of the sources that are installed. Raises as
    `library_path` does."""
    path = library_path(folder, source)
    try:
        return _open(path, sources_hash(source, machine()))
    except _WrongLibraryError as error:
        raise _unavailable(str(error)) from error


def _unavailable(reason: str) -> BackendUnavailableError:
    return BackendUnavailableError(f"backend 'native' is not available: {reason}; run: {BUILD}")


def _cap(order: list[str]) -> int:
    """The number of the highest level that the user allows."""
    name = os.environ.get(VARIABLE, "").strip().lower()
    if name and name not in order:
        raise ConfigError(f"{VARIABLE}: expected one of {', '.join(order)}, got {name!r}")
    return order.index(name) if name else len(order) - 1


def _open(path: Path, sources: str) -> ctypes.CDLL:
    """A library that says of itself that it is made of these sources."""
    try:
        opened = ctypes.CDLL(str(path))
        opened.tinyllm_sources.restype = ctypes.c_char_p
        its = opened.tinyllm_sources()
    except (OSError, AttributeError) as error:  # what is no library, of another system, or of another project
        raise _WrongLibraryError(f"its library cannot be opened: {error}") from error
    if its != sources.encode():
        raise _WrongLibraryError(f"its library {path.name} was built from other sources than those installed")
    return opened
