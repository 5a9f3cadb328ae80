"""What runs beside a test."""

from __future__ import annotations

import os
from pathlib import Path


def command(pid: str) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def children(module: str) -> list[str]:
    """The processes that this one has started with a module."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in pids if module in command(pid)]
