"""Ctrl-C in the midst of a step of several processes, and SIGTERM to all of them."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from tests.parallel.folders import LLAMA
from tinyllm.llm import load
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


@pytest.mark.parametrize("option", ["tensor_parallel", "pipeline_parallel"])
def test_sigterm_to_all_processes_of_a_service_is_for_the_first(option: str, tmp_path: Path) -> None:
    LLAMA.save(tmp_path)
    llm = load(tmp_path, "native", **{option: 2})  # type: ignore[arg-type]
    wanted = llm.logits([3, 4, 5])
    others = [p for p in psutil.Process().children() if "_process import main" in " ".join(p.cmdline())]
    for process in others:
        process.terminate()
    assert others and psutil.wait_procs(others, timeout=0.3)[0] == []
    np.testing.assert_array_equal(llm.logits([3, 4, 5]), wanted)
