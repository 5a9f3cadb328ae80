"""The sum over processes that share memory, in the midst of a step."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from tinyllm.plugins import BoundNode, Communicator, MeetingPlace
from tinyllm_native.arrays import contiguous, of_dtype
from tinyllm_native.library import run
from tinyllm_native.link import Linker
from tinyllm_native.values import NotLinked, Size

QUESTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double)


class Meeting:
    """Lets the library ask whether a wait is in vain, and keeps why it is: an error cannot pass through C."""

    def __init__(self, place: MeetingPlace) -> None:
        self.place = place
        self._error: BaseException | None = None
        self._question = QUESTION(self._ask)
        self.address = ctypes.cast(self._question, ctypes.c_void_p).value or 0

    def _ask(self, seconds: float) -> int:
        if self._error is None:
            try:
                self.place.check(seconds)
            except BaseException as error:  # noqa: BLE001  Ctrl-C, too: it is raised when the library has returned
                self._error = error
        return int(self._error is not None)

    def check(self) -> None:
        """Raises what ended a wait since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def all_reduce(x: np.ndarray, *, group: Any = None) -> np.ndarray:
    """The sum of x over the processes of a group, `[*B]`; x itself where there is none."""
    if group is None:
        return x
    x, meeting = contiguous(x), Meeting(group.place)
    y = np.empty(x.shape, x.dtype)
    arrays = [x, y, meeting.place.address or None, meeting.address]
    run("all_reduce", arrays, [1, x.size, of_dtype(x), *_sizes(group, meeting.place)])
    meeting.check()
    return y


def _sizes(group: Communicator, place: MeetingPlace) -> list[int]:
    return [group.rank, group.ranks, place.line, place.part]


def build(b: Linker, node: BoundNode) -> None:
    """The record of a sum."""
    group, x = node.call.attributes["group"] if node.call else None, b.source(node, "x")
    if group is None or x is None or x.stride != x.columns * x.itemsize:
        raise NotLinked("all_reduce: no group, or rows that lie apart")
    if group.place not in b.meetings:
        b.meetings[group.place] = Meeting(group.place)
    meeting, y = b.meetings[group.place], b.new(node)
    memory = b.address(meeting.place.address) if meeting.place.address else None
    sizes: list[Size] = [x.rows, prod(x.tail), x.number, *_sizes(group, meeting.place)]
    b.add("all_reduce", [x, y, memory, b.address(meeting.address)], sizes)
