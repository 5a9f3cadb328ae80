"""Processes of this machine that this one starts, and that end when they are hung up on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

PATIENCE = 60.0
"""Seconds that the processes of a model wait for one another within a step."""
GRACE = 2.0
"""Seconds in which a process that is hung up on has to end."""


def start(module: str, *arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    """Run the `main` of a module in a process of its own: not by multiprocessing, which would run the program's main
    module again.

    Args:
        arguments: of `main`, as numbers and texts. options: of `Popen`.
    """
    given = ", ".join(map(repr, arguments))
    # a signal to all processes of a service is for the first one, which lets replies end and then hangs up
    code = "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code += f"sys.path[:] = {sys.path!r}; from {module} import main; main({given}); os._exit(0)"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the first process, which hangs up
        **{"stdin": subprocess.DEVNULL, **options},
    )


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """`ended by SIGKILL`, `ended with status 1`, of a process that ends now."""
    code = process.wait(GRACE)
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Wait for processes that were hung up on; one that does not end by that is killed."""
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
