"""Ctrl-C in the midst of a step of several processes."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from tinyllm.parallel.program import ParallelProgram


class Interrupted:
    """Has Ctrl-C pressed in each step, as often as it is told."""

    def __init__(self, times: int) -> None:
        self.times, self.done = times, 0

    def __call__(self, *arguments: Any) -> tuple[list[Any], dict[str, Any]]:
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)
        self.done += 1
        return [], {}


@pytest.mark.parametrize(("times", "ended"), [(1, 0), (2, 1)])
def test_a_step_goes_on_to_its_end_unless_it_is_pressed_again(times: int, ended: int) -> None:
    own: Any = Interrupted(times)
    told = SimpleNamespace(ends=0)
    program = ParallelProgram(own, lambda message: None, lambda: vars(told).update(ends=told.ends + 1))
    with pytest.raises(KeyboardInterrupt):
        program({}, {})
    assert (told.ends, own.done) == (ended, 1 - ended)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_handler_is_left_alone() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        own: Any = Interrupted(1)
        ParallelProgram(own, lambda message: None, lambda: None)({}, {})
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [signal.SIGINT] and own.done == 1
