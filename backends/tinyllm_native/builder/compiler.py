"""Finds a C compiler that works: `$CC`, cc, gcc or clang, or else the one that PyPI's `ziglang` has."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .levels import FLAGS, machine

PROBE = """
#include <math.h>
#include <pthread.h>
#include <stdint.h>
static void *root(void *x) { *(double *)x = sqrt(*(double *)x); return 0; }
int probe(double *x) { pthread_t t; return pthread_create(&t, 0, root, x) || pthread_join(t, 0); }
"""
"""A program that needs what the sources need: headers, threads and libm."""
HOW = "install one (apt install gcc, or pip install ziglang)"
GLIBC = "2.28"
"""The oldest glibc that a library made by zig runs on."""
ZIG_LEVELS: dict[str, tuple[str, ...]] = {"neon": ("-mcpu=generic+v8_2a+dotprod+fullfp16",)}
"""Flags of levels that zig calls otherwise."""


class NoCompilerError(Exception):
    """No compiler works; the message says what was tried and what to install."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that works.

    command: what is run, to which flags and files are added. name: what users are told, with the version. translated:
    flags in the place of a level's own. platform: the tag of wheels whose libraries it made, empty where they need what
    this machine has.
    """

    command: tuple[str, ...]
    name: str
    translated: dict[str, tuple[str, ...]] = field(default_factory=dict)
    platform: str = ""


def find_compiler() -> Compiler:
    """The first compiler that works.

    Raises:
        NoCompilerError: there is none, zig included.
    """
    tried: list[str] = []
    found = c_compiler(tried) or zig(tried)
    if found is None:
        raise NoCompilerError(f"no C compiler works ({'; '.join(tried)}); {HOW}")
    return found


def c_compiler(tried: list[str] | None = None) -> Compiler | None:
    """The first of `$CC`, cc, gcc and clang that works. What the others lack is added to `tried`."""
    tried = [] if tried is None else tried
    for label, words in (("$CC", os.environ.get("CC", "")), ("cc", "cc"), ("gcc", "gcc"), ("clang", "clang")):
        command = tuple(shlex.split(words))
        if not command:
            continue
        wrong = _wrong(command)
        if not wrong:
            return Compiler(command, _name(command))
        tried.append(f"{label}: {wrong}")
    return None


def zig(tried: list[str] | None = None, architecture: str = "") -> Compiler | None:
    """The compiler of the package `ziglang`, for this machine or another architecture on the same system; None where
    it is not installed or does not work, which is added to `tried`."""
    tried = [] if tried is None else tried
    if importlib.util.find_spec("ziglang") is None:
        tried.append("ziglang: not installed")
        return None
    architecture = architecture or machine()
    tag, target = "", f"{architecture}-macos"
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        tag, target = f"manylinux_{GLIBC.replace('.', '_')}_{architecture}", f"{architecture}-linux-gnu.{GLIBC}"
    elif sys.platform == "linux":
        target = f"{architecture}-linux-musl"
    run = (sys.executable, "-m", "ziglang")
    command = (*run, "cc", "-target", target, "-mcpu=baseline", "-g0")
    wrong = _wrong(command)
    if wrong:
        tried.append(f"ziglang: {wrong}")
        return None
    return Compiler(command, f"zig {_output(*run, 'version').strip()}", ZIG_LEVELS, tag)


def first_error(text: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it failed without a word")


def _wrong(command: tuple[str, ...]) -> str:
    """What keeps a compiler from making a library of the probe; empty where it works."""
    if shutil.which(command[0]) is None:
        return "not found"
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "probe.c"), Path(folder, "probe.so")
        source.write_text(PROBE, encoding="utf-8")
        try:
            done = subprocess.run(
                [*command, *FLAGS, str(source), "-lm", "-o", str(made)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            return str(error)
        if done.returncode:
            return first_error(done.stderr)
        return "" if made.exists() else "it made nothing of a small program"


def _name(command: tuple[str, ...]) -> str:
    """`gcc 12.2.0`, whatever the command is called."""
    text = _output(*command, "--version")
    line = re.sub(r"\(.*?\)", "", text.partition("\n")[0])
    version = re.search(r"\d+(\.\d+)+", line)
    kind = "clang" if "clang" in line.lower() else "gcc" if "Free Software Foundation" in text else command[0]
    return f"{kind} {version.group()}" if version else kind


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
