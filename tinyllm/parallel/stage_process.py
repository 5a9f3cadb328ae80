"""What runs in each process of a pipeline but the first: it joins the first, loads its stage, and runs the steps that
it is told of."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm import __version__
from tinyllm.errors import TinyllmError
from tinyllm.models.bound_model import BoundModel, ModelChoice, bind_stage
from tinyllm.parallel.follow import follow
from tinyllm.parallel.frames import Arrays, FrameError, Link, ready
from tinyllm.parallel.greeting import Address, Door, knock
from tinyllm.parallel.stage_program import StageProgram
from tinyllm.registry.registry import Registry, default_registry

BEATS = 4
"""How often a stage that is at work says so within the patience of the first process."""


@dataclass(frozen=True)
class Seat:
    """Which stage a process is, and where and how it joins the first one."""

    rank: int
    stages: int
    address: Address
    token: str = field(repr=False)
    patience: float


class LostStageError(TinyllmError):
    """The stage before or after this one is gone, or does not answer."""

    def __init__(self, stage: int, problem: str) -> None:
        super().__init__(problem)
        self.stage = stage


class Heart(threading.Thread):
    """Tells the first process, while this one works, that it still does."""

    def __init__(self, first: Link, interval: float) -> None:
        super().__init__(name="tinyllm-stage-heart", daemon=True)
        self._first, self._interval, self._working = first, interval, threading.Event()
        self.work, self.rest = self._working.set, self._working.clear

    def run(self) -> None:
        """Until the first process has hung up."""
        with suppress(OSError):
            while True:
                self._working.wait()
                time.sleep(self._interval)
                if self._working.is_set():
                    self._first.send("alive")


class Follower:
    """A stage's connections: to the first process, and to the stages before and after it, which may be the first."""

    def __init__(self, seat: Seat, first: Link, heart: Heart) -> None:
        self._rank, self._first, self._heart = seat.rank, first, heart
        self._before = self._after = first
        self._last = seat.rank == seat.stages - 1

    def join(self, seat: Seat, door: Door, after: list[Any] | None) -> None:
        """Connect to the stages beside this one. after: where the next stage listens; None: this one is the last.

        The next stage is first, as that accepts this one when it has its own next."""
        if after is not None:
            host, port = after
            with self._talking(seat.rank + 1):
                self._after = knock((str(host), int(port)), seat.token, seat.patience)
        if seat.rank > 1:
            with self._talking(seat.rank - 1):
                self._before = door.accept(seat.token, seat.patience, time.monotonic() + seat.patience)

    def told(self) -> tuple[Any, ...]:
        """The next message of `ParallelProgram`."""
        self._heart.rest()
        frame = self._first.receive()
        self._heart.work()
        values = frame.values
        arguments = [frame.arrays] if frame.what == "step" else values["numbers"]
        return values["dropped"], frame.what, values["number"], *arguments

    def receive(self) -> Arrays:
        """What the stage before sends in this step."""
        if self._before is not self._first and self._before not in ready([self._first, self._before]):
            raise EOFError("the first process has hung up")
        with self._talking(self._rank - 1):
            return self._before.receive().arrays

    def send(self, values: Arrays) -> list[np.ndarray]:
        """Send on what this stage made, and tell the first process that it has done its part."""
        with self._talking(0 if self._last else self._rank + 1):
            self._after.send("values", values)
        if not self._last:
            self._first.send("done")
        return []

    @contextmanager
    def _talking(self, stage: int) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, FrameError) as error:
            if stage == 0:
                raise EOFError("the first process is gone") from error
            raise LostStageError(stage, f"stage {self._rank} lost its connection to it: {error}") from error


def run_stage(choice: ModelChoice, registry: Registry, seat: Seat, deadline: float = 0.0) -> None:
    """Run a stage until the first process hangs up; what goes wrong meanwhile is for that one to say.

    Args:
        choice: the model, found on this machine. deadline: until when the first process may begin to listen.

    Raises:
        OSError, StrangerError: the first process cannot be joined.
    """
    first = knock(seat.address, seat.token, seat.patience, deadline)
    heart = Heart(first, seat.patience / BEATS)
    heart.start()
    with _telling(first, seat.rank):
        door = Door((first.host(ours=True), 0), 1)
        first.send("hello", rank=seat.rank, stages=seat.stages, port=door.address[1], made_by=made_by())
        follower = Follower(seat, first, heart)
        after = first.receive().values["after"]
        heart.work()
        follower.join(seat, door, after)
        door.close()
        bound = bind_stage(choice, registry, seat.rank, seat.stages)
        first.send("loaded", model=fingerprint(bound, choice), page_size=bound.program.page_size)
        follow(follower.told, StageProgram(bound.program, bound.stage, follower.receive, follower.send))


@contextmanager
def _telling(first: Link, rank: int) -> Iterator[None]:
    """Tell the first process what went wrong, and wait until it hangs up: it would not read what a closed connection
    had still to give."""
    try:
        yield
    except (EOFError, ConnectionError):  # the first process is gone: nobody is left to tell
        pass
    except Exception as error:  # noqa: BLE001  whatever it was, it ends this process, and the first one says it
        stage = error.stage if isinstance(error, LostStageError) else rank
        problem = str(error) if isinstance(error, TinyllmError) else f"{type(error).__name__}: {error}"
        with suppress(OSError, EOFError, FrameError):
            first.send("failed", stage=stage, problem=problem)
            while True:
                first.receive()


def made_by() -> list[str]:
    """What two processes have to have in common to understand one another."""
    return [__version__, sys.byteorder]


def fingerprint(bound: BoundModel, choice: ModelChoice) -> str:
    """Equal where two processes have the same model, as far as its config and the types of its tensors tell."""
    checkpoint = bound.checkpoint
    types = [(name, str(checkpoint.info(name).type)) for name in sorted(checkpoint.tensor_names())]
    told = repr((replace(choice, path=Path()), bound.config, types))
    return hashlib.sha256(told.encode()).hexdigest()


def order(choice: ModelChoice, seat: Seat) -> bytes:
    """What `main` reads."""
    return json.dumps({"choice": asdict(choice) | {"path": str(choice.path)}, "seat": asdict(seat)}).encode()


def main() -> None:
    """A stage that the first process has started on its own machine, which writes an `order` to stdin."""
    given = json.loads(sys.stdin.buffer.read())
    choice = ModelChoice(**given["choice"] | {"path": Path(given["choice"]["path"])})
    seat = Seat(**given["seat"] | {"address": tuple(given["seat"]["address"])})
    with suppress(OSError, TinyllmError):  # the first process has ended already
        run_stage(choice, default_registry(), seat)
