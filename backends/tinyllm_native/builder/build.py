"""Compiles every level of the native library, all at the same time."""

from __future__ import annotations

import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .compiler import Compiler, NoCompilerError, find_compiler, first_error
from .levels import FLAGS, LIBRARY, SOURCE, Built, levels, library, machine, read_record, sources_hash, write_record


def current(folder: Path = LIBRARY, source: Path = SOURCE) -> Built | None:
    """The record of a folder whose libraries were made of these very sources; None where they were not."""
    built = read_record(folder)
    fits = built is not None and "portable" in built.levels and built.sources == sources_hash(source, machine())
    return built if fits else None


def refresh(folder: Path = LIBRARY, source: Path = SOURCE) -> Built:
    """Compile unless the libraries are there already, of these sources and by the compiler that would be taken.

    Raises:
        OSError: the folder cannot be written.
    """
    there = current(folder, source)
    try:
        compiler = find_compiler()
    except NoCompilerError as error:
        return there or _keep_reason(str(error), folder, sources_hash(source, machine()))
    return there if there and there.compiler == compiler.name else compile_levels(compiler, folder, source)


def build(folder: Path = LIBRARY, source: Path = SOURCE) -> Built:
    """Find a compiler and compile. What keeps it from that is in the record's `reason`.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        compiler = find_compiler()
    except NoCompilerError as error:
        return _keep_reason(str(error), folder, sources_hash(source, machine()))
    return compile_levels(compiler, folder, source)


def compile_levels(compiler: Compiler, folder: Path = LIBRARY, source: Path = SOURCE, architecture: str = "") -> Built:
    """Compile the levels of an architecture, this machine's by default, and keep the record.

    A level that the compiler refuses is left out; without the portable one there is no library, and a `reason`.

    Raises:
        OSError: the folder cannot be written.
    """
    architecture = architecture or machine()
    wanted, sources = levels(architecture), sources_hash(source, architecture)
    files = [str(path) for path in sorted(source.glob("*.c"))]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as new:

        def compile_level(level: str) -> str:
            """Compile one level; gives what is wrong with it."""
            flags = compiler.translated.get(level, wanted[level])
            about = (f"-DTINYLLM_LEVEL_{level.upper()}", f'-DTINYLLM_SOURCES="{sources}"')
            made = str(library(Path(new), level))
            command = [*compiler.command, *FLAGS, *flags, *about, *files, "-lm", "-o", made]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            return first_error(done.stderr) if done.returncode else ""

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            left_out = {
                level: wrong for level, wrong in zip(wanted, pool.map(compile_level, wanted), strict=True) if wrong
            }
        if "portable" in left_out:
            return _keep_reason(f"{compiler.name} cannot compile it: {left_out['portable']}", folder, sources)
        made = tuple(level for level in wanted if level not in left_out)
        for level in made:
            library(Path(new), level).replace(library(folder, level))
    _remove(folder, made)
    built = Built(sources, compiler.name, made, left_out, platform=compiler.platform)
    write_record(folder, built)
    return built


def _keep_reason(reason: str, folder: Path, sources: str) -> Built:
    """Remove what was compiled of other sources, and keep the reason why nothing was compiled of these."""
    built = Built(sources, reason=reason)
    write_record(folder, built)
    _remove(folder, ())
    return built


def _remove(folder: Path, but: tuple[str, ...]) -> None:
    """Remove the libraries of a folder but those of some levels."""
    for path in folder.glob("*.so"):
        if path.stem not in but:
            path.unlink(missing_ok=True)
