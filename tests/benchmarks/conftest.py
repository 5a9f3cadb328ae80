"""Shows GB/s and GFLOP/s beside the times: pytest-benchmark's own table has no column for them."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line for each op, case and kernel that was timed, the fastest kernel of a case first."""
    session: Any = getattr(config, "_benchmarksession", None)
    timed = [b for b in getattr(session, "benchmarks", []) if "kernel" in b.extra_info and not b.has_error]
    if not timed:
        return
    terminalreporter.section("what the times mean")
    for bench in sorted(timed, key=lambda b: (b.group, b.stats.median)):
        info = bench.extra_info
        figures = f"{1e6 * bench.stats.median:12.1f} us {info['GB/s']:9.2f} GB/s {info['GFLOP/s']:9.2f} GFLOP/s"
        terminalreporter.write_line(f"{bench.group:52} {info['kernel']:36} {figures}")
