"""What runs in each process of a pipeline but the first: it joins the first, loads its stage, and runs the steps that
it is told of."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm import __version__
from tinyllm.errors import TinyllmError
from tinyllm.models.bound_model import BoundModel, ModelChoice, bind_stage
from tinyllm.parallel.follow import follow, message_of
from tinyllm.parallel.frames import Arrays, FrameError
from tinyllm.parallel.greeting import Address, Listener, StrangerError, connect
from tinyllm.parallel.interrupts import leave_signals_to_first
from tinyllm.parallel.link import Link, ready
from tinyllm.parallel.stage_program import StageProgram
from tinyllm.registry.registry import Registry, default_registry

BEATS = 4
"""How often a stage that is at work says so within the patience of the first process."""


@dataclass(frozen=True)
class StageAddress:
    """Which stage a process is, and where and how it joins the first one."""

    rank: int
    stages: int
    address: Address
    token: str = field(repr=False)
    patience: float


class LostStageError(TinyllmError):
    """The first process, or the stage before or after this one, is gone or does not answer."""

    def __init__(self, stage: int, problem: str) -> None:
        super().__init__(problem)
        self.stage = stage


class Heartbeat(threading.Thread):
    """Tells the first process, while this one works, that it still does."""

    def __init__(self, first: Link, interval: float) -> None:
        super().__init__(name="tinyllm-stage-heartbeat", daemon=True)
        self._first, self._interval, self._working = first, interval, threading.Event()
        self.resume, self.pause = self._working.set, self._working.clear

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

    def __init__(self, place: StageAddress, first: Link, heartbeat: Heartbeat) -> None:
        self._rank, self._first, self._heartbeat = place.rank, first, heartbeat
        self._before = self._after = first
        self._last = place.rank == place.stages - 1

    def join(self, place: StageAddress, listener: Listener, after: list[Any] | None) -> None:
        """Connect to the stages beside this one. after: where the next stage listens; None: this one is the last.

        The next stage is first, as that accepts this one when it has its own next."""
        deadline = time.monotonic() + place.patience
        if after is not None:
            host, port = after
            with _errors_named(place.rank, place.rank + 1):
                self._after = connect((str(host), int(port)), place.token, place.patience, deadline)
        if place.rank > 1:
            with _errors_named(place.rank, place.rank - 1):
                self._before = listener.accept(place.token, place.patience, deadline)

    def told(self) -> tuple[Any, ...]:
        """The next message of `ParallelProgram`."""
        self._heartbeat.pause()
        with _errors_named(self._rank, 0):
            frame = self._first.receive()
        self._heartbeat.resume()
        return message_of(frame)

    def receive(self) -> Arrays:
        """What the stage before sends in this step."""
        if self._before is not self._first and self._before not in ready([self._first, self._before]):
            raise LostStageError(0, "it has hung up")
        with _errors_named(self._rank, self._rank - 1):
            return self._before.receive().arrays

    def send(self, values: Arrays) -> list[np.ndarray]:
        """Send on what this stage made, and tell the first process that it has done its part."""
        with _errors_named(self._rank, 0 if self._last else self._rank + 1):
            self._after.send("values", values)
        if not self._last:
            with _errors_named(self._rank, 0):
                self._first.send("done")
        return []


def run_stage(choice: ModelChoice, registry: Registry, place: StageAddress, deadline: float) -> None:
    """Run a stage until the first process hangs up; what goes wrong meanwhile is for that one to say.

    Args:
        choice: the model, found on this machine. deadline: until when the first process may begin to listen.

    Raises:
        OSError, StrangerError: the first process cannot be joined.
    """
    first = connect(place.address, place.token, place.patience, deadline)
    leave_signals_to_first()
    heartbeat = Heartbeat(first, place.patience / BEATS)
    heartbeat.start()
    with ExitStack() as stack:
        stack.callback(first.hang_up)
        stack.enter_context(_telling(first, place.rank))
        with closing(Listener((first.host(ours=True), 0))) as listener:
            follower = Follower(place, first, heartbeat)
            port = listener.address[1]
            with _errors_named(place.rank, 0):
                first.send("hello", rank=place.rank, stages=place.stages, port=port, made_by=made_by())
                after = first.receive().values["after"]
            heartbeat.resume()
            follower.join(place, listener, after)
        bound = bind_stage(choice, registry, place.rank, place.stages)
        model, page_size = fingerprint(bound, choice), bound.program.page_size
        with _errors_named(place.rank, 0):
            first.send("loaded", model=model, page_size=page_size)
        follow(follower.told, StageProgram(bound.program, bound.stage, follower.receive, follower.send))


@contextmanager
def _telling(first: Link, rank: int) -> Iterator[None]:
    """Tell the first process what went wrong, and wait until it hangs up: it would not read what a closed connection
    had still to give. Clients are shown what it is told: the text of an error that nobody wrote for them stays here."""
    try:
        yield
    except LostStageError as error:
        if error.stage:  # otherwise nobody is left to tell
            _tell(first, error.stage, str(error))
    except TinyllmError as error:
        _tell(first, rank, str(error))
    except Exception as error:  # noqa: BLE001  whatever it was, it ends this process, and the first one says it
        traceback.print_exc()
        _tell(first, rank, type(error).__name__)


def _tell(first: Link, stage: int, problem: str) -> None:
    with suppress(OSError, EOFError, FrameError):
        first.send("failed", stage=stage, problem=problem)
        while True:
            first.receive()


@contextmanager
def _errors_named(rank: int, stage: int) -> Iterator[None]:
    """Say whose connection it was that failed. What the first process sends and is no frame, that one is told."""
    try:
        yield
    except (OSError, EOFError, FrameError) as error:
        if stage == 0 and isinstance(error, FrameError):
            raise
        raise LostStageError(stage, f"stage {rank} lost its connection to it: {error}") from error


def made_by() -> list[str]:
    """What two processes have to have in common to understand one another."""
    return [__version__, sys.byteorder]


def fingerprint(bound: BoundModel, choice: ModelChoice) -> str:
    """Equal where two processes have the same model, as far as its config and the types of its tensors tell."""
    checkpoint = bound.checkpoint
    types = [(name, str(checkpoint.info(name).type)) for name in sorted(checkpoint.tensor_names())]
    told = repr((replace(choice, path=Path()), bound.config, types))
    return hashlib.sha256(told.encode()).hexdigest()


def order(choice: ModelChoice, place: StageAddress) -> bytes:
    """What `main` reads."""
    return json.dumps({"choice": choice.to_json(), "place": asdict(place)}).encode()


def main() -> None:
    """A stage that the first process has started on its own machine, which writes an `order` to stdin."""
    given = json.loads(sys.stdin.buffer.read())
    place = StageAddress(**given["place"] | {"address": tuple(given["place"]["address"])})
    with suppress(OSError, StrangerError):  # the first process has ended already
        deadline = time.monotonic() + place.patience
        run_stage(ModelChoice.from_json(given["choice"]), default_registry(), place, deadline)
