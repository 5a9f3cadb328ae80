"""Messages between processes over TCP: a few values as JSON, and arrays as the bytes that they are.

A frame is the lengths of both (4 and 8 bytes, the highest first), the JSON object, then the arrays one after the other
as they lie in memory. What comes is never run: it is read as numbers of a known dtype, within bounds.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError, quoted
from tinyllm.spec.dtypes import numpy_dtype

LENGTHS = struct.Struct("!IQ")
MOST_TEXT = 1 << 20
MOST_ARRAYS = 1 << 34
"""Most bytes of a frame's JSON, and of its arrays."""
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
TOGETHER = 1 << 16
"""A frame of fewer bytes is sent by one call."""
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds without a word before the system asks whether the other side is there, between questions, and how many."""

Arrays = Mapping[str, np.ndarray]


class FrameError(TinyllmError):
    """What came is no frame, or something that was not to come."""


@dataclass(frozen=True)
class Frame:
    """What it says, with values that JSON has, and arrays by name."""

    what: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


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
        for option, value in KEEPALIVE.items():
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
        """Send a frame. Raises `OSError` where the other side is gone or takes nothing."""
        arrays = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
        kinds = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
        text = json.dumps({"what": what, "values": values, "arrays": kinds}).encode()
        nbytes = sum(array.nbytes for array in arrays.values())
        if len(text) > MOST_TEXT or nbytes > MOST_ARRAYS:
            raise FrameError(f"expected a frame of at most {MOST_TEXT} and {MOST_ARRAYS} bytes, got {nbytes}")
        parts: list[bytes | memoryview] = [LENGTHS.pack(len(text), nbytes) + text]
        parts += [_bytes(array) for array in arrays.values()]
        if len(text) + nbytes < TOGETHER:
            parts = [b"".join(parts)]
        with self._sending:
            for part in parts:
                self._connection.sendall(part)

    def receive(self) -> Frame:
        """The next frame, however long it takes until it begins.

        Raises:
            EOFError: the other side has hung up. OSError: it is gone, or does not send the rest. FrameError: what came
                is no frame.
        """
        ready([self])
        head = bytearray(LENGTHS.size)
        self._fill(head)
        text_size, nbytes = LENGTHS.unpack(head)
        if text_size > MOST_TEXT or nbytes > MOST_ARRAYS:
            raise FrameError(f"expected a frame of at most {MOST_TEXT} and {MOST_ARRAYS} bytes, got more")
        text = bytearray(text_size)
        self._fill(text)
        what, values, kinds = _parsed(bytes(text))
        if nbytes != sum(prod(shape) * numpy_dtype(dtype).itemsize for _, dtype, shape in kinds):
            raise FrameError(f"expected arrays of {nbytes} bytes together, got other shapes")
        arrays: dict[str, np.ndarray] = {}
        for name, dtype, shape in kinds:
            arrays[name] = np.empty(shape, numpy_dtype(dtype))
            self._fill(_bytes(arrays[name]))
        return Frame(what, values, arrays)

    def _fill(self, place: bytearray | memoryview) -> None:
        left = memoryview(place)
        while len(left):
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


def _parsed(text: bytes) -> tuple[str, dict[str, Any], list[tuple[str, str, list[int]]]]:
    try:
        match json.loads(text):
            case {"what": str(what), "values": dict(values), "arrays": list(kinds)} if all(map(_is_kind, kinds)):
                return what, values, kinds
    except (ValueError, RecursionError):
        pass
    raise FrameError(f"expected a frame, got {quoted(text)}")


def _is_kind(kind: Any) -> bool:
    match kind:
        case [str(), dtype, list(shape)]:
            sizes = all(type(size) is int and 0 <= size <= MOST_ARRAYS for size in shape)
            return dtype in DTYPES and len(shape) <= 8 and sizes
    return False


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
