"""A program that is one process's part of a model, whose steps the other processes run as well."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyllm.graph.program import Observe, Pages, Program

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
            where another process is gone. failed: called where this process breaks off; gives what is raised instead.
    """

    def __init__(self, own: Program, tell: Tell, failed: Callable[[BaseException], BaseException]) -> None:
        vars(self).update(vars(own))  # it is that program, and says more
        self._tell, self._failed = tell, failed
        self._lock = threading.Lock()
        self._dropped: list[int] = []
        self._last = 0

    def allocate(self, pages: int, page_size: int, rows: int = 1) -> Pages:
        """As `Program.allocate`, in all processes."""
        with self._lock:
            self._last += 1
            number = _Number(self._last)
            weakref.finalize(number, self._dropped.append, number.value)
            made = self._all(
                lambda: super(ParallelProgram, self).allocate(pages, page_size, rows),
                "allocate",
                number.value,
                pages,
                page_size,
                rows,
            )
            return _SharedPages(made, number)

    def grow(self, state: Pages, pages: int, page_size: int, rows: int = 1) -> Pages:
        """As `Program.grow`, in all processes."""
        number = _number(state)
        with self._lock:
            grown = self._all(
                lambda: super(ParallelProgram, self).grow(state, pages, page_size, rows),
                "grow",
                number.value,
                pages,
                page_size,
                rows,
            )
            return _SharedPages(grown, number)

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: Pages, observe: Observe | None = None
    ) -> tuple[list[np.ndarray], Pages]:
        """As `Program.__call__`, in all processes."""
        number = _number(state)
        with self._lock:
            outputs, updated = self._all(
                lambda: super(ParallelProgram, self).__call__(inputs, state, observe),
                "step",
                number.value,
                dict(inputs),
            )
            return outputs, _SharedPages(updated, number)

    def _all(self, run: Callable[[], Any], *message: Any) -> Any:
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        self._tell((dropped, *message))
        try:
            return run()
        except BaseException as error:  # Ctrl-C, too: the others are in the midst of the step
            raise self._failed(error) from error


def _number(state: Pages) -> _Number:
    return state.number if isinstance(state, _SharedPages) else _Number(0)
