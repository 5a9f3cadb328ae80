"""The processes that run the later stages of a model, as the first one sees them, which is this."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError
from tinyllm.models.bound_model import BoundStage, ModelChoice
from tinyllm.parallel.frames import Arrays, Frame, FrameError, Link, ready
from tinyllm.parallel.greeting import Door
from tinyllm.parallel.processes import end, how_it_ended, start
from tinyllm.parallel.shared_memory import RanksEndedError
from tinyllm.parallel.stage_process import Seat, fingerprint, made_by, order
from tinyllm.parallel.stage_program import PipelineProgram, StageProgram, checked

LOOK = 0.5
"""Seconds between two looks at whether a process that is waited for still lives."""
AGAIN = ": load the model again"


class Stages:
    """The stages after this one. They end with this process, whatever it dies of; `close` ends them.

    Args:
        stages: how many there are, this one included. patience: seconds in which a stage that has something to do has
            to say that it lives.
    """

    def __init__(self, stages: int, patience: float) -> None:
        self.stages, self._patience, self._owner = stages, patience, os.getpid()
        self._reading, self._gone = threading.Lock(), ""
        self._silence = f"does not answer for {patience:g} s"
        self._links: dict[int, Link] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._closed = weakref.finalize(self, _end, self._processes, self._links, self._owner)

    def start(self, choice: ModelChoice, door: Door, token: str) -> None:
        """Start the other processes on this machine, which come to the door."""
        for rank in range(1, self.stages):
            theirs, ours = os.pipe()
            with open(theirs, "rb") as stdin, open(ours, "wb") as pipe:
                self._processes[rank] = start("tinyllm.parallel.stage_process", stdin=stdin)
                # so that nobody else sees the token, as they would see an argument or a variable
                pipe.write(order(choice, Seat(rank, self.stages, door.address, token, self._patience)))

    def gather(self, door: Door, token: str, seconds: float) -> None:
        """Let the other processes in, and tell each where the next one listens.

        Raises:
            TinyllmError: one does not come within `seconds`, or is not one of these.
        """
        deadline = time.monotonic() + seconds
        ports: dict[int, int] = {}
        while len(self._links) < self.stages - 1:
            try:
                link = door.accept(token, self._patience, min(deadline, time.monotonic() + LOOK))
            except TimeoutError:
                self._check_processes()
                if time.monotonic() < deadline:
                    continue
                missing = ", ".join(str(rank) for rank in range(1, self.stages) if rank not in self._links)
                raise self._error(missing, f"did not join within {seconds:g} s") from None
            rank, port = self._admitted(link)
            self._links[rank], ports[rank] = link, port
        places = {rank: [link.host(), ports[rank]] for rank, link in self._links.items()}
        for rank, link in self._links.items():
            with self._talking(rank):
                link.send("order", after=places.get(rank + 1))

    def _admitted(self, link: Link) -> tuple[int, int]:
        """The stage that joins, and the port at which it listens."""
        try:
            hello = link.receive().values if ready([link], self._patience) else {}
        except (OSError, EOFError, FrameError) as error:
            raise TinyllmError(f"pipeline_parallel: a process joined and said nothing: {error}") from error
        match hello:
            case {"rank": int(rank), "stages": self.stages, "port": int(port), "made_by": made} if made == made_by():
                if 0 < rank < self.stages and rank not in self._links:
                    return rank, port
        wanted = {"stages": self.stages, "made_by": made_by()}
        raise TinyllmError(f"pipeline_parallel: expected a process of {wanted} to join, got {dict(hello)}")

    def join(self, bound: BoundStage, choice: ModelChoice) -> PipelineProgram:
        """The program of the whole model, when all stages are loaded; `bound` is the first one.

        Raises:
            TinyllmError: one could not be loaded.
        """
        loaded = self._hear("")
        model, sizes = fingerprint(bound, choice), [bound.program.page_size]
        for rank, frame in loaded.items():
            if frame.values.get("model") != model:
                raise self._error(rank, "has another model, or loads it with other options, than stage 0")
            sizes.append(int(frame.values["page_size"]))
        whole = bound.stage.whole

        def send(values: Arrays) -> list[np.ndarray]:
            with self._talking(1):
                self._links[1].send("values", values)
            last = self.stages - 1
            with self._talking(last):
                arrays = checked(self._hear()[last].arrays, whole.outputs, whole)
            return [arrays[name] for name in whole.outputs]

        own = StageProgram(bound.program, bound.stage, dict, send)
        return PipelineProgram(own, self.tell, self.close, whole, max(sizes), check=self.check)

    def tell(self, message: tuple[Any, ...]) -> None:
        """Send a message of `ParallelProgram` to all stages. Raises `RanksEndedError` where one is gone."""
        self.check()
        dropped, what, number, *arguments = message
        arrays = arguments[0] if what == "step" else {}
        numbers = [int(argument) for argument in arguments] if what != "step" else []
        for rank, link in self._links.items():
            with self._talking(rank):
                link.send(what, arrays, dropped=dropped, number=number, numbers=numbers)

    def check(self) -> None:
        """Raises `RanksEndedError` where one of the stages is gone, as far as that can be seen from here.

        Any thread may ask; while a step runs, it is the step that finds out.
        """
        if self._gone:
            raise RanksEndedError(self._gone)
        if not self._closed.alive or self._owner != os.getpid():
            raise RanksEndedError(f"pipeline_parallel: the other stages were ended{AGAIN}")
        if not self._reading.acquire(blocking=False):
            return
        try:
            while asking := ready(self._links.values(), 0):
                for rank, link in self._links.items():
                    if link in asking:
                        self._receive(rank)
        finally:
            self._reading.release()

    def close(self) -> None:
        """End the other processes."""
        self._closed()

    def _hear(self, then: str = AGAIN) -> dict[int, Frame]:
        """A frame of each stage, when it is done with what it is at. then: ends the error of one that is gone."""
        found: dict[int, Frame] = {}
        heard = dict.fromkeys(self._links, time.monotonic())
        with self._reading:
            while waiting := {rank: link for rank, link in self._links.items() if rank not in found}:
                speaking = ready(waiting.values(), LOOK)
                for rank, link in waiting.items():
                    if link in speaking:
                        frame, heard[rank] = self._receive(rank, then), time.monotonic()
                        found |= {} if frame.what == "alive" else {rank: frame}
                    elif time.monotonic() - heard[rank] > self._patience:
                        raise self._error(rank, self._silence, then)
        return found

    def _receive(self, rank: int, then: str = AGAIN) -> Frame:
        with self._talking(rank, then):
            frame = self._links[rank].receive()
        if frame.what == "failed":
            stage, problem = frame.values["stage"], f"failed: {frame.values['problem']}"
            raise self._error(rank, problem, then) if stage == rank else self._lost(stage, problem, then)
        return frame

    @contextmanager
    def _talking(self, rank: int, then: str = AGAIN) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise self._lost(rank, "closed its connection", then) from error
        except TimeoutError as error:
            raise self._error(rank, self._silence, then) from error
        except (OSError, FrameError) as error:
            raise self._lost(rank, f"failed: {error}", then) from error

    def _lost(self, rank: int, problem: str, then: str) -> RanksEndedError:
        """The error of a stage that is gone; what became of its process, where that is one of ours."""
        if rank in self._processes:
            with suppress(subprocess.TimeoutExpired):  # it lives, and what it said is what is known
                problem = how_it_ended(self._processes[rank])
        return self._error(rank, problem, then)

    def _error(self, rank: int | str, problem: str, then: str = "") -> RanksEndedError:
        self._gone = f"pipeline_parallel: stage {rank} of {self.stages} {problem}{then}"
        return RanksEndedError(self._gone)

    def _check_processes(self) -> None:
        for rank, process in self._processes.items():
            if process.poll() is not None:
                raise self._lost(rank, "", "")


def _end(processes: dict[int, subprocess.Popen[bytes]], links: dict[int, Link], owner: int) -> None:
    """Hang up; a process that does not end by that is killed."""
    if owner == os.getpid():
        for link in links.values():
            link.hang_up()
        end(processes.values())
