"""The levels of the native library, what they are compiled from, and the record of what was compiled."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "source"
LIBRARY = Path(__file__).parents[1] / "library"
RECORD = "built.json"

FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
)
"""What every level is compiled with."""
_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "portable": (),
        "avx2": _AVX2,
        "avx512": _AVX512,
        "avx512vnni": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
    },
    "aarch64": {"portable": (), "neon": ("-march=armv8.2-a+dotprod+fp16",)},
}
"""By machine the levels and their flags, from the lowest up: the numbers that `tinyllm_cpu_level` gives."""


def machine() -> str:
    """The processor's architecture, `x86_64` or `aarch64` whatever the system calls it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def levels(architecture: str) -> dict[str, tuple[str, ...]]:
    """The levels of an architecture, lowest first, each with its flags; portable C is everywhere."""
    return LEVELS.get(architecture, {"portable": ()})


def sources_hash(source: Path, architecture: str) -> str:
    """What tells one library from another: a hash of the sources' names and bytes, and of the flags."""
    digest = hashlib.blake2b(repr((FLAGS, levels(architecture))).encode(), digest_size=16)
    for path in sorted(source.glob("*.[ch]")):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Built:
    """What was compiled, as `library/built.json` keeps it.

    sources: the hash that the libraries have too. compiler: its name and version. levels: those that are there.
    left_out: levels that the compiler refused, with its words. reason: why there is no library at all. platform: the
    tag of wheels that hold the libraries; empty where they need what this machine has.
    """

    sources: str
    compiler: str = ""
    levels: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    platform: str = ""


def library(folder: Path, level: str) -> Path:
    """The file of a level; a shared library has this ending on every system."""
    return folder / f"{level}.so"


def write_record(folder: Path, built: Built) -> None:
    """Keep what was compiled beside it, in the place of an older record at once."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{RECORD}.new"
    new.write_text(json.dumps(asdict(built), indent=2) + "\n", encoding="utf-8")
    new.replace(folder / RECORD)


def read_record(folder: Path) -> Built | None:
    """The record of a folder; None: nothing was compiled there, or by a builder that wrote it otherwise."""
    try:
        built = Built(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return replace(built, levels=tuple(level for level in built.levels if library(folder, level).exists()))
