"""A process that is told of each step does the same on pages of its own, and lets go of those that are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest

from tinyllm.parallel.follow import follow, frame_of, message_of
from tinyllm.parallel.frames import Frame, FrameError, from_bytes, to_bytes


class Held(dict[str, Any]):
    """Pages that can be seen to be gone."""


class Recording:
    """A program that writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.held: WeakValueDictionary[str, Held] = WeakValueDictionary()

    def _given(self, *call: Any) -> Held:
        self.calls.append(call)
        pages = self.held[f"{call[0]} {len(self.calls)}"] = Held(call=call[0])
        return pages

    def allocate(self, *sizes: int) -> Held:
        """As a program's."""
        return self._given("allocate", *sizes)

    def grow(self, state: Held, *sizes: int) -> Held:
        """As a program's."""
        return self._given("grow", state["call"], *sizes)

    def __call__(self, inputs: str, state: Held) -> tuple[list[Any], Held]:
        """A step."""
        return [], self._given("step", inputs, state.get("call"))


class Messages:
    """Given one after the other; then the end."""

    def __init__(self, program: Recording, messages: Iterator[tuple[Any, ...]]) -> None:
        self._program, self._messages = program, messages
        self.alive: list[list[str]] = []

    def __call__(self) -> Any:
        """The next one."""
        self.alive.append(sorted(self._program.held))
        try:
            return next(self._messages)
        except StopIteration:
            raise EOFError from None


def test_each_message_is_done_on_the_pages_that_it_names() -> None:
    program = Recording()
    sent = [
        ([], "allocate", 1, 4, 16, 1),
        ([], "step", 1, "first"),
        ([], "grow", 1, 8, 16, 1),
        ([], "allocate", 2, 2, 16, 1),
        ([1], "step", 2, "second"),
        ([], "step", 0, "without pages"),
    ]
    messages = Messages(program, iter(sent))
    with pytest.raises(EOFError):
        follow(messages, program)  # type: ignore[arg-type]
    assert program.calls == [
        ("allocate", 4, 16, 1),
        ("step", "first", "allocate"),
        ("grow", "step", 8, 16, 1),
        ("allocate", 2, 16, 1),
        ("step", "second", "allocate"),
        ("step", "without pages", None),
    ]
    assert messages.alive[4] == ["allocate 4", "grow 3"] and messages.alive[5] == ["step 5"]


@pytest.mark.parametrize(
    "message",
    [([], "allocate", 1, 4, 16, 1), ([1, 2], "grow", 3, 8, 16, 1), ([7], "step", 2, {"tokens": np.arange(3)})],
    ids=["allocate", "grow", "step"],
)
def test_a_message_is_the_same_after_its_way_as_bytes(message: tuple[Any, ...]) -> None:
    *found, last = message_of(from_bytes(to_bytes(frame_of(message))))
    assert found == [*message[:-1]]
    np.testing.assert_equal(last, message[-1])


@pytest.mark.parametrize(
    "frame", [Frame("alive"), Frame("step", {"dropped": 1, "number": 2}), Frame("grow", {"dropped": [], "number": 1})]
)
def test_another_frame_is_no_message(frame: Frame) -> None:
    with pytest.raises(FrameError, match="expected a step, or pages to make or to grow, got "):
        message_of(frame)
