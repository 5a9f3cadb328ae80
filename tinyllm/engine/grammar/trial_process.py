"""The process in which strangers' grammars are compiled first. Each is compiled in a child of its own, as native code
can be stopped in no other way.

It has one thread, so that it can fork; it imports no array library but numpy, and ends with the process that started
it.
"""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.grammar.processor_budget import ProcessorBudget
from tinyllm.engine.grammar.trial_child import run_child
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.errors import invalid

QUICK_SECONDS = 0.02
"""Processor time in which nearly every grammar is done; a large schema takes half of it."""
_LARGE_SECONDS = 0.1
_QUICK_SHARE, _QUICK_BURST = 0.1, 1.0
_LOWEST = 19
"""The niceness that takes from the model only what it leaves idle: a step waits for the slowest of its threads."""
_PARENT_SECONDS = 2.0
"""How often it looks whether its parent is still there."""


@dataclass
class _Job:
    id: int
    grammars: list[Grammar]


@dataclass
class _Child:
    job: _Job
    pid: int
    answers: Connection
    until: float
    killed: bool = False

    def kill(self) -> None:
        """Have it end, and stay in its lane until it has: on a busy machine a nice process takes long to die."""
        os.kill(self.pid, signal.SIGKILL)
        self.until, self.killed = math.inf, True

    def end(self) -> tuple[int, float]:
        """Wait for its end, and return its exit code, which is negative for the signal that it died of, and the
        processor time that it took."""
        self.answers.close()
        os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


@dataclass
class _Lane:
    """Jobs of which one is run at a time. One that takes longer than this lane allows begins anew in the next."""

    seconds: float
    niceness: int
    next: _Lane | None = None
    waiting: deque[_Job] = field(default_factory=deque)
    child: _Child | None = None


class TrialProcess:
    """Answers the questions of the process that started it, until that ends.

    Args:
        parent: the connection to it.
    """

    def __init__(self, parent: Connection, vocabulary: Vocabulary, limits: GrammarLimits) -> None:
        self._parent, self._vocabulary, self._limits = parent, vocabulary, limits
        self._quick = ProcessorBudget(_QUICK_SHARE, _QUICK_BURST, time.monotonic)
        self._lanes = [_Lane(limits.seconds, _LOWEST)]
        for seconds, niceness in ((_LARGE_SECONDS, _LOWEST), (QUICK_SECONDS, 0)):
            if seconds < limits.seconds:  # slow grammars hold up no quicker one
                self._lanes.insert(0, _Lane(seconds, niceness, self._lanes[0]))

    def run(self) -> None:
        """Answer until the parent has closed its end, or is gone."""
        parent = os.getppid()
        try:
            while os.getppid() == parent:  # a process forked from the parent holds its end, too
                self._begin()
                self._step()
        except (EOFError, OSError):
            pass  # nobody is there to be answered
        finally:
            for lane in self._lanes:
                if lane.child is not None:
                    lane.child.end()

    def _begin(self) -> None:
        """Start a child in each lane that has none. Past their budget grammars leave the first lane untried."""
        first = self._lanes[0]
        if first.next is not None and first.child is None and first.waiting and not self._quick.left:
            first.next.waiting += first.waiting
            first.waiting.clear()
        for lane in self._lanes:
            if lane.child is None and lane.waiting:
                lane.child = self._fork(lane, lane.waiting.popleft())

    def _step(self) -> None:
        """Wait until something comes, or the time of a child is over, and see to it."""
        running = [(lane, lane.child) for lane in self._lanes if lane.child is not None]
        until = min((child.until for _, child in running), default=math.inf)
        seconds = min(max(0.0, until - time.monotonic()), _PARENT_SECONDS)
        ready = wait([self._parent, *(child.answers for _, child in running)], seconds)
        for lane, child in running:
            if child.answers in ready and child.killed:
                self._end(lane, child)
            elif child.answers in ready:
                self._finish(lane, child)
            elif time.monotonic() >= child.until:
                self._give_up(lane, child)
        if self._parent in ready:
            self._take(json.loads(self._parent.recv_bytes()))

    def _take(self, message: dict[str, Any]) -> None:
        """A grammar to try, or that nobody waits for one any more; an empty message ends the process."""
        if not message:
            raise EOFError
        if "grammars" in message:
            grammars = [Grammar(kind, source) for kind, source in message["grammars"]]
            self._lanes[0].waiting.append(_Job(message["id"], grammars))
            return
        for lane in self._lanes:
            lane.waiting = deque(job for job in lane.waiting if job.id != message["id"])
            if lane.child is not None and lane.child.job.id == message["id"]:
                lane.child.kill()

    def _finish(self, lane: _Lane, child: _Child) -> None:
        """Hand on what a child says. One that died of its limits says nothing."""
        answer = None
        with suppress(EOFError, OSError):
            answer = json.loads(child.answers.recv_bytes())
        late = self._end(lane, child) == -signal.SIGPROF
        if answer is None and late and lane.next is not None:
            lane.next.waiting.append(child.job)
            return
        if answer is not None:
            answer["slow"] = lane is not self._lanes[0]
        else:
            limits, kind = self._limits, child.job.grammars[0].kind
            within = f"{limits.seconds:g} s of processor time" if late else f"{limits.memory / 2**20:g} MiB of memory"
            problem = invalid("grammar", kind, f"one that compiles within {within}", "one that takes more")
            answer = {"guilty": 0, "problem": str(problem)}
        self._answer(child.job, answer)

    def _give_up(self, lane: _Lane, child: _Child) -> None:
        """Wait no longer for a child that comes to nothing."""
        child.kill()
        if lane.next is not None:
            lane.next.waiting.append(child.job)
            return
        waited = self._limits.patience * lane.seconds
        self._answer(child.job, {"busy": f"grammar: the machine was too busy to compile it within {waited:g} s"})

    def _answer(self, job: _Job, answer: dict[str, Any]) -> None:
        self._parent.send_bytes(json.dumps({"id": job.id, **answer}).encode())

    def _end(self, lane: _Lane, child: _Child) -> int:
        """End the child of a lane, and return its exit code."""
        code, seconds = child.end()
        if lane is self._lanes[0]:
            self._quick.spend(seconds)
        lane.child = None
        return code

    def _fork(self, lane: _Lane, job: _Job) -> _Child:
        answers, child_end = Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            run_child(child_end, job.grammars, self._vocabulary, lane.seconds, self._limits.memory, lane.niceness)
        child_end.close()
        return _Child(job, pid, answers, time.monotonic() + self._limits.patience * lane.seconds)


def main(file_descriptor: int) -> None:
    """Run the process on the connection that it inherited, which brings the vocabulary and the limits first."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, they are its parent's to obey
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError), Connection(file_descriptor) as parent:
        vocabulary, limits = parent.recv()
        gc.freeze()  # a collection in a child would copy all of it
        TrialProcess(parent, vocabulary, limits).run()
