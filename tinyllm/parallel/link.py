"""A connection over TCP by which two processes send one another frames."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from tinyllm.parallel.frames import LENGTHS, Arrays, Frame, lengths, packed, unpacked

TOGETHER = 1 << 16
"""A frame of fewer bytes is sent by one call."""
SILENCE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}
"""Seconds without a word before the system asks whether the other side is there, between questions, and how many; and
milliseconds after which it gives up what the other side does not say to have got."""


class Link:
    """A connection to another process. Any thread may send; one alone receives.

    Args:
        patience: seconds in which the other side has to take what is sent, and to send the rest of a frame.
    """

    def __init__(self, connection: socket.socket, patience: float) -> None:
        self._connection, self._sending = connection, threading.Lock()
        connection.settimeout(patience)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that loses its power says nothing
        for option, value in SILENCE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def fileno(self) -> int:
        """Of the connection, to wait for."""
        return self._connection.fileno()

    def host(self, ours: bool = False) -> str:
        """The address of the other side, or of this one."""
        name = self._connection.getsockname() if ours else self._connection.getpeername()
        return str(name[0])

    def send(self, what: str, arrays: Arrays | None = None, **values: Any) -> None:
        """Send a frame. Raises `OSError` where the other side is gone or takes nothing, `FrameError` as `packed`."""
        parts = packed(Frame(what, values, arrays or {}))
        if sum(map(len, parts)) < TOGETHER:
            parts = [b"".join(parts)]
        with self._sending:
            for part in parts:
                self._connection.sendall(part)

    def receive(self, patience: float | None = None) -> Frame:
        """The next frame, however long it takes until it begins.

        Args:
            patience: seconds in which the rest has to come, where those of the link are too many.

        Raises:
            EOFError: the other side has hung up. OSError: it is gone, or does not send the rest. FrameError: what came
                is no frame.
        """
        ready([self])
        deadline = None if patience is None else time.monotonic() + patience
        head = bytearray(LENGTHS.size)
        self._fill(head, deadline)
        size, nbytes = lengths(head)
        text = bytearray(size)
        self._fill(text, deadline)
        frame = unpacked(bytes(text), nbytes)
        for place in frame.places():
            self._fill(place, deadline)
        return frame

    def _fill(self, place: bytearray | memoryview, deadline: float | None) -> None:
        left = memoryview(place)
        while len(left):
            # the connection's own time is that of whoever sends meanwhile, too
            if deadline is not None and not ready([self], max(0.0, deadline - time.monotonic())):
                raise TimeoutError("the rest of a frame does not come")
            got = self._connection.recv_into(left)
            if got == 0:
                raise EOFError("it has hung up")
            left = left[got:]

    def hang_up(self) -> None:
        """Let the other side see the end, whoever else has a copy of this connection."""
        with suppress(OSError):  # the other side was quicker
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def ready(links: Iterable[Link], seconds: float | None = None) -> list[Link]:
    """The links that have something to read, or have ended, which is waited for; None: as long as it takes."""
    numbers = {link.fileno(): link for link in links}
    found = wait([*numbers], seconds)
    return [link for number, link in numbers.items() if number in found]
