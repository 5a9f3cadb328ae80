"""The machine that a report was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Where numerical libraries read how many threads they may use."""


def machine() -> dict[str, Any]:
    """Names of the platform and the processor, and the number of cores that this process may use."""
    return {"platform": platform.platform(), "processor": _processor(), "cores": cores()}


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def _processor() -> str:
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
    except OSError:  # only Linux has the file
        lines = []
    names = (value.strip() for key, _, value in lines if key.strip() == "model name")
    return next(names, platform.processor() or platform.machine())
