"""What a process does that another tells of each step: it keeps pages of its own, and runs the same on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyllm.graph.program import Pages, Program
from tinyllm.parallel.frames import Frame, FrameError


def follow(receive: Callable[[], Any], program: Program) -> None:
    """Do what the messages of a `ParallelProgram` say, until `receive` raises."""
    pages: dict[int, Pages] = {0: {}}
    while True:
        dropped, what, number, *arguments = receive()
        for gone in dropped:
            pages.pop(gone, None)
        if what == "step":
            _, pages[number] = program(arguments[0], pages[number])
        elif what == "grow":
            pages[number] = program.grow(pages[number], *arguments)
        else:
            pages[number] = program.allocate(*arguments)


def frame_of(message: tuple[Any, ...]) -> Frame:
    """A message of a `ParallelProgram`, to be sent to where nothing but frames is taken."""
    dropped, what, number, *arguments = message
    arrays, numbers = (arguments[0], []) if what == "step" else ({}, [int(argument) for argument in arguments])
    return Frame(what, {"dropped": dropped, "number": number, "numbers": numbers}, arrays)


def message_of(frame: Frame) -> tuple[Any, ...]:
    """The message that `frame_of` made a frame of. Raises `FrameError` for another frame."""
    match frame:
        case Frame("step", {"dropped": list(dropped), "number": int(number)}, arrays):
            return dropped, "step", number, arrays
        case Frame("allocate" | "grow", {"dropped": list(dropped), "number": int(number), "numbers": list(numbers)}):
            return dropped, frame.what, number, *numbers
    raise FrameError(f"expected a step, or pages to make or to grow, got {frame.what!r} of {[*frame.values]}")
