"""Calls on cold data: either over so many copies of the inputs that they exceed the caches, or with the caches swept in
between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Literal

from tinyllm.bench.limits import timed

CPUS = Path("/sys/devices/system/cpu")
UNKNOWN_CACHE = 64 * 2**20
"""Bytes of cache where the machine does not tell, and on devices other than the CPU."""
MOST_MEMORY = 2**30
MOST_COPIES = 16384
PAST = 2.0
"""How many times the caches the copies are: a cache that does not throw out the oldest first keeps some at 1."""

Run = Callable[[], object]


def cache_bytes(device: str = "cpu", cpus: Path = CPUS) -> int:
    """Bytes of the last-level caches, all of them together: a machine may have one for every few cores."""
    if device != "cpu":
        return UNKNOWN_CACHE
    levels: dict[int, dict[str, int]] = {}
    for folder in cpus.glob("cpu[0-9]*/cache/index*"):
        try:
            if (folder / "type").read_text().strip() != "Instruction":
                owners = (folder / "shared_cpu_list").read_text().strip()
                levels.setdefault(int((folder / "level").read_text()), {})[owners] = _size(
                    (folder / "size").read_text().strip()
                )
        except (OSError, ValueError):  # a virtual machine shows some of these files and not others
            continue
    return sum(levels[max(levels)].values()) if levels else UNKNOWN_CACHE


def _size(text: str) -> int:
    """`32768K` in bytes."""
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
    return int(text.rstrip("KMG")) * factor


def spare_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that copies may take: a quarter of what is free, a gibibyte at most."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return MOST_MEMORY
    return min(MOST_MEMORY, free // 4)


@dataclass(frozen=True)
class Plan:
    """How data is kept cold, as reports say it: by the `rotation` of copies that take turns, or by a `sweep` of the
    caches before each call."""

    copies: int
    by: Literal["rotation", "sweep"]


def plan(held: int, touched: int, cache: int, memory: int) -> Plan:
    """Copies that together exceed the cache; where those would be too many or too large, a sweep.

    Args:
        held: bytes of one copy of the inputs. touched: bytes of them that a call reads (one row of a large table, say).
    """
    copies = ceil(PAST * cache / max(1, min(held, touched))) + 1
    fits = copies <= MOST_COPIES and copies * held <= memory
    return Plan(copies, "rotation") if fits else Plan(2, "sweep")


def rotation(calls: Sequence[Run]) -> Run:
    """A call of the next one, round and round."""
    turn = cycle(calls)
    return lambda: next(turn)()


def cold_times(calls: Sequence[Run], chosen: Plan, sweep: Run, rounds: int, least: float) -> list[float]:
    """Seconds per call, `rounds` times.

    In a sweep two copies are there: after the sweep the first one brings code and interpreter back into the caches, and
    the second is timed, whose data are still in memory alone.
    """
    if chosen.by == "rotation":
        return timed(rotation(calls), rounds, least)
    warm, cold = calls
    cold()  # packs and compiles what a first call does
    times = []
    for _ in range(rounds):
        sweep()
        warm()
        start = time.perf_counter()
        cold()
        times.append(time.perf_counter() - start)
    return times
