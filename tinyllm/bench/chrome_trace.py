"""A trace in the form of Chrome's trace viewer, which Perfetto (ui.perfetto.dev) opens as well.

The form is that of Google's "Trace Event Format": complete events `X` with a start and a duration in microseconds, and
metadata `M` that names processes and threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinyllm.bench.step_trace import Row


def chrome_trace(steps: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The steps one after the other: each is a process, each backend in it a thread, each node an event.

    The nodes of a step run one after the other, so that each begins where the one before it ended.
    """
    events: list[dict[str, Any]] = []
    now = 0.0
    for process, (step, rows) in enumerate(steps.items(), 1):
        threads = {name: number for number, name in enumerate(dict.fromkeys(row.backend for row in rows), 1)}
        events.append(_named("process_name", step, process, 0))
        events += [_named("thread_name", name, process, thread) for name, thread in threads.items()]
        for row in rows:
            took = row.seconds * 1e6
            place = {"ph": "X", "ts": now, "dur": took, "pid": process, "tid": threads[row.backend]}
            figures = {"GB/s": row.gb_s, "GFLOP/s": row.gflop_s, "of limit": row.of_limit}
            told = {name: value for name, value in figures.items() if value is not None}
            arguments = {"kernel": row.kernel, "bytes": row.bytes, "flops": row.flops, **told}
            events.append({"name": row.name, "cat": row.op, **place, "args": arguments})
            now += took
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _named(what: str, name: str, process: int, thread: int) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
