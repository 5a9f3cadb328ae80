"""Each process on cores of its own: threads of several that wait for one another would take turns on the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def share_of(cores: list[int], rank: int, ranks: int) -> set[int]:
    """A process's cores of those that all may use; where there are fewer than processes, some share one."""
    each = max(1, len(cores) // ranks)
    start = rank * each % len(cores)
    return {*cores[start : start + each]}


def keep_to(rank: int, ranks: int) -> None:
    """Let this process, or the thread that calls this and those that it starts, run on its share of the cores alone,
    where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share_of(sorted(os.sched_getaffinity(0)), rank, ranks))


@contextmanager
def kept_to(rank: int, ranks: int) -> Iterator[None]:
    """The same within the block: libraries count the cores, and start their threads, when they are first used."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    keep_to(rank, ranks)
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)
