"""How many threads the library works on."""

from __future__ import annotations

import os
import warnings
from functools import cache
from math import ceil
from pathlib import Path

from tinyllm.errors import ThreadsWarning
from tinyllm.plugins import invalid

VARIABLE = "TINYLLM_NATIVE_THREADS"
MOST = 256


@cache
def thread_count() -> int:
    """As `TINYLLM_NATIVE_THREADS` says, or one for each core that this process may use.

    More than there are cores are taken, with a warning: they wait for one another.

    Raises:
        InvalidInputError: the variable holds no number from 1 to 256.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return cores()
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise invalid("native", VARIABLE, f"a number from 1 to {MOST}", repr(text))
    if int(text) > cores():
        told = f"{VARIABLE}={text}: more threads than the {cores()} cores that may be used: slower"
        warnings.warn(told, ThreadsWarning, stacklevel=2)
    return int(text)


def cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, quota(), MOST)


def quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that a control group's quota comes to, rounded up; many where there is none."""
    try:
        microseconds, _, period = file.read_text().strip().partition(" ")
        return max(1, ceil(int(microseconds) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max 100000`
        return MOST
