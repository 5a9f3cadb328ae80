"""Ctrl-C between steps: within one it would leave the other processes in the midst of it. It is the first process's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_after() -> Iterator[None]:
    """Within the block the first Ctrl-C waits for its end, and is then raised; a second one does not wait. Handlers
    that the program has set stay as they are."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def keep(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def leave_signals_to_first() -> None:
    """Ignore Ctrl-C and SIGTERM from now on, which a launcher hands on to all processes: they are for the first one,
    which hangs up on the others in the end. In another thread than the main one, which gets no signals, this does
    nothing."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
