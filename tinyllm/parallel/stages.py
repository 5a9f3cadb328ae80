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

from tinyllm.errors import ModelGoneError, TinyllmError
from tinyllm.models.bound_model import BoundStage, ModelChoice
from tinyllm.parallel.follow import frame_of
from tinyllm.parallel.frames import Arrays, Frame, FrameError
from tinyllm.parallel.greeting import Listener
from tinyllm.parallel.link import Link, ready
from tinyllm.parallel.processes import end, how_it_ended, start
from tinyllm.parallel.stage_process import StageAddress, fingerprint, made_by, order
from tinyllm.parallel.stage_program import PipelineProgram, StageProgram, checked

LOOK = 0.5
"""Seconds between two looks at whether a process that is waited for still lives."""
GLANCE = 1.0
"""Seconds in which a frame that has begun has to be there, where others wait for whoever looks."""


class Stages:
    """The stages after this one. They end with this process, whatever it dies of; `close` ends them.

    Args:
        stages: how many there are, this one included. patience: seconds in which a stage that has something to do has
            to say that it lives.
    """

    def __init__(self, stages: int, patience: float) -> None:
        self.stages, self._patience, self._owner = stages, patience, os.getpid()
        self._reading, self._gone = threading.Lock(), ""
        self._ending = ""
        """Of an error, once the model is loaded: what has to be done."""
        self._links: dict[int, Link] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._closed = weakref.finalize(self, _end, self._processes, self._links, self._owner)

    def start(self, choice: ModelChoice, listener: Listener, token: str) -> None:
        """Start the other processes on this machine, which come to the listener."""
        for rank in range(1, self.stages):
            theirs, ours = os.pipe()
            with open(theirs, "rb") as stdin, open(ours, "wb") as pipe:
                self._processes[rank] = start("tinyllm.parallel.stage_process", stdin=stdin)
                # so that nobody else sees the token, as they would see an argument or a variable
                pipe.write(order(choice, StageAddress(rank, self.stages, listener.address, token, self._patience)))

    def gather(self, listener: Listener, token: str, seconds: float) -> None:
        """Let the other processes in, and tell each where the next one listens.

        Raises:
            TinyllmError: one does not come within `seconds`, or is not one of these.
        """
        deadline = time.monotonic() + seconds
        ports: dict[int, int] = {}
        while len(self._links) < self.stages - 1:
            try:
                link = listener.accept(token, self._patience, min(deadline, time.monotonic() + LOOK))
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
            with self._errors_named(rank):
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
        loaded = self._answers()
        model, sizes = fingerprint(bound, choice), [bound.program.page_size]
        for rank, frame in loaded.items():
            if frame.values.get("model") != model:
                raise self._error(rank, "has another model, or loads it with other options, than stage 0")
            sizes.append(int(frame.values["page_size"]))
        self._ending = ": load the model again" if self._processes else ": all have to be started again"
        whole = bound.stage.whole

        def send(values: Arrays) -> list[np.ndarray]:
            with self._reading:  # from before anybody can answer: `check` would take the answer away
                with self._errors_named(1):
                    self._links[1].send("values", values)
                last = self.stages - 1
                answers = self._answers()
                with self._errors_named(last):
                    arrays = checked(answers[last].arrays, whole.outputs, whole)
            return [arrays[name] for name in whole.outputs]

        own = StageProgram(bound.program, bound.stage, dict, send)
        return PipelineProgram(own, self.tell, self.close, whole, max(sizes), check=self.check)

    def tell(self, message: tuple[Any, ...]) -> None:
        """Send a message of `ParallelProgram` to all stages. Raises `ModelGoneError` where one is gone."""
        self.check()
        frame = frame_of(message)
        for rank, link in self._links.items():
            with self._errors_named(rank):
                link.send(frame.what, frame.arrays, **frame.values)

    def check(self) -> None:
        """Raises `ModelGoneError` where one of the stages is gone, as far as that can be seen from here.

        Any thread may ask; while a step runs, it is the step that finds out.
        """
        if self._gone:
            raise ModelGoneError(self._gone)
        if not self._closed.alive or self._owner != os.getpid():
            raise ModelGoneError(f"pipeline_parallel: the other stages were ended{self._ending}")
        if not self._reading.acquire(blocking=False):
            return
        try:
            while asking := ready(self._links.values(), 0):
                for rank, link in self._links.items():
                    if link in asking:
                        self._receive(rank, GLANCE)
        finally:
            self._reading.release()

    def close(self) -> None:
        """End the other processes."""
        self._closed()

    def _answers(self) -> dict[int, Frame]:
        """A frame of each stage, when it is done with what it is at. Nobody else reads meanwhile."""
        if self._gone:  # `check` has read that, and nothing more will come
            raise ModelGoneError(self._gone)
        found: dict[int, Frame] = {}
        heard = dict.fromkeys(self._links, time.monotonic())
        while waiting := {rank: link for rank, link in self._links.items() if rank not in found}:
            speaking = ready(waiting.values(), LOOK)
            for rank, link in waiting.items():
                if link in speaking:
                    frame, heard[rank] = self._receive(rank), time.monotonic()
                    found |= {} if frame.what == "alive" else {rank: frame}
                elif time.monotonic() - heard[rank] > self._patience:
                    raise self._silent(rank, self._patience)
        return found

    def _receive(self, rank: int, patience: float | None = None) -> Frame:
        with self._errors_named(rank, patience):
            frame = self._links[rank].receive(patience)
        if frame.what == "failed":
            stage, problem = frame.values["stage"], f"failed: {frame.values['problem']}"
            raise self._error(rank, problem) if stage == rank else self._lost(stage, problem)
        return frame

    @contextmanager
    def _errors_named(self, rank: int, patience: float | None = None) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise self._lost(rank, "closed its connection") from error
        except TimeoutError as error:
            raise self._silent(rank, self._patience if patience is None else patience) from error
        except (OSError, FrameError) as error:
            raise self._lost(rank, f"failed: {error}") from error

    def _lost(self, rank: int, problem: str) -> ModelGoneError:
        """The error of a stage that is gone; what became of its process, where that is one of ours."""
        if rank in self._processes:
            with suppress(subprocess.TimeoutExpired):  # it lives, and what it said is what is known
                problem = how_it_ended(self._processes[rank])
        return self._error(rank, problem)

    def _silent(self, rank: int, patience: float) -> ModelGoneError:
        return self._error(rank, f"does not answer for {patience:g} s")

    def _error(self, rank: int | str, problem: str) -> ModelGoneError:
        self._gone = f"pipeline_parallel: stage {rank} of {self.stages} {problem}{self._ending}"
        return ModelGoneError(self._gone)

    def _check_processes(self) -> None:
        for rank, process in self._processes.items():
            if process.poll() is not None:
                raise self._lost(rank, "")


def _end(processes: dict[int, subprocess.Popen[bytes]], links: dict[int, Link], owner: int) -> None:
    """Hang up; a process that does not end by that is killed."""
    if owner == os.getpid():
        for link in links.values():
            link.hang_up()
        end(processes.values())
