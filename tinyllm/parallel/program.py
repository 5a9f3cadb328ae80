"""A program that is one process's part of a model, whose steps the other processes run as well."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyllm.graph.observe import Observe
from tinyllm.graph.program import Pages, Program
from tinyllm.parallel.interrupts import interrupts_after

Tell = Callable[[tuple[Any, ...]], None]
"""Sends a message to all other processes."""


class _Number:
    """Stands for pages that the other processes hold; when it is gone, they may go."""

    def __init__(self, value: int) -> None:
        self.value = value


class _SharedPages(dict[str, Any]):
    """This process's pages, with what those of the others are called."""

    def __init__(self, pages: Pages, number: _Number) -> None:
        super().__init__(pages)
        self.number = number


class ParallelProgram(Program):
    """The first process's program. Callers see a program like any other, and the logits of the whole model.

    Args:
        own: what this process runs. tell: called with each message before this process does the same itself; it raises
            where another process is gone. broken_off: called where this process fails in what it has told, as the
            others then wait for it. check: raises where another process is gone, as far as that can be seen.
    """

    def __init__(
        self, own: Program, tell: Tell, broken_off: Callable[[], None], check: Callable[[], None] = lambda: None
    ) -> None:
        vars(self).update(vars(own))  # what it says of itself is what its part says
        self._own, self._tell, self._broken_off, self._check = own, tell, broken_off, check
        self._lock = threading.Lock()
        self._dropped: list[int] = []
        self._last = 0

    def check(self) -> None:
        """As `Program.check`: another process may be gone."""
        self._check()

    def allocate(self, pages: int, page_size: int, rows: int = 1) -> Pages:
        """As `Program.allocate`, in all processes."""
        with self._together():
            self._last += 1
            number = _Number(self._last)
            weakref.finalize(number, self._dropped.append, number.value)
            self._say("allocate", number, pages, page_size, rows)
            return _SharedPages(self._own.allocate(pages, page_size, rows), number)

    def grow(self, state: Pages, pages: int, page_size: int, rows: int = 1) -> Pages:
        """As `Program.grow`, in all processes."""
        number = _number(state)
        with self._together():
            self._say("grow", number, pages, page_size, rows)
            return _SharedPages(self._own.grow(state, pages, page_size, rows), number)

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: Pages, observe: Observe | None = None, values_told: bool = False
    ) -> tuple[list[np.ndarray], Pages]:
        """As `Program.__call__`, in all processes; of the nodes this one's alone are told."""
        number = _number(state)
        with self._together():
            self._say("step", number, dict(inputs))
            outputs, updated = self._own(inputs, state, observe, values_told)
            return outputs, _SharedPages(updated, number)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """One thread at a time, so that all processes do the same in the same order."""
        with self._lock, interrupts_after():
            try:
                yield
            except BaseException:  # a second Ctrl-C, too
                self._broken_off()
                raise

    def _say(self, what: str, number: _Number, *arguments: Any) -> None:
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        self._tell((dropped, what, number.value, *arguments))


def _number(state: Pages) -> _Number:
    return state.number if isinstance(state, _SharedPages) else _Number(0)
