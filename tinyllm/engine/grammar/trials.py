"""Grammars of strangers, tried in a process that can be ended before they are compiled in this one."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any

from tinyllm.engine.grammar.compile import GrammarRefusedError
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.errors import TinyllmError


class TrialsEndedError(TinyllmError):
    """The process that tries grammars ended before it answered."""

    def __init__(self) -> None:
        super().__init__("grammar: the process that compiles grammars ended")


class TrialsBusyError(TinyllmError):
    """As many grammars wait or are held as may, or the machine is too busy to compile one.

    retry_after: seconds after which it is worth asking again.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Trial:
    """A grammar that was compiled within its limits. rules: as `make_matcher` takes them. bytes: that they take.
    slow: whether it was not done in the time that most take, its first mask included."""

    rules: str
    bytes: int
    slow: bool


class Trials:
    """The process that tries grammars. It is started when it is first needed, and again after its death. May be used by
    several threads.

    Args:
        vocabulary: makes the one that replies are spelled with.
    """

    def __init__(self, vocabulary: Callable[[], Vocabulary], limits: GrammarLimits) -> None:
        self.limits = limits
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False

    def run(self, grammars: Sequence[Grammar]) -> Future[Trial]:
        """Try a grammar. A future that is cancelled ends the trial.

        Args:
            grammars: the one that is wanted, and the parts that it is made of, of which the guilty one is told.

        Returns:
            A future of the trial, or of `GrammarRefusedError`, `TrialsEndedError`, or `TrialsBusyError` where the
            machine is too busy.

        Raises:
            TrialsBusyError: too many wait.
        """
        vocabulary = self._vocabulary()
        with self._lock:
            if self._closed:
                ended: Future[Trial] = Future()
                ended.set_exception(TrialsEndedError())
                return ended
            if self._process is None or not self._process.alive:
                self._process = _Process(vocabulary, self.limits)
            return self._process.run(list(grammars))

    def close(self) -> None:
        """End the process, and fail what waits."""
        with self._lock:
            self._closed, process = True, self._process
        if process is not None:
            process.close()


class _Process:
    """One process, with a thread that writes to it and one that reads from it, so that nobody waits for it."""

    def __init__(self, vocabulary: Vocabulary, limits: GrammarLimits) -> None:
        self._limits, self._owner = limits, os.getpid()
        self._connection, other_end = Pipe()
        # not by multiprocessing, which would run the program's main module again
        code = f"import sys; sys.path[:] = {sys.path!r}; from tinyllm.engine.grammar.trial_process import main; "
        with other_end:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", f"{code}main({other_end.fileno()})"],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # numpy's threads, which nobody needs there, would be lost in a fork
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        self._lock = threading.Lock()
        self._ended = False
        self._asked: dict[int, tuple[Future[Trial], list[Grammar]]] = {}
        self._number = 0
        self._outbox: queue.SimpleQueue[Callable[[Connection], None] | None] = queue.SimpleQueue()
        self._outbox.put(lambda connection: connection.send((vocabulary, limits)))
        for target in (self._write, self._read):
            threading.Thread(target=target, name="tinyllm-grammars", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it takes questions. The threads of a process do not come through a fork of it."""
        return not self._ended and self._owner == os.getpid()

    def run(self, grammars: list[Grammar]) -> Future[Trial]:
        """As `Trials.run` does."""
        future: Future[Trial] = Future()
        with self._lock:
            if len(self._asked) >= self._limits.waiting:
                raise TrialsBusyError(f"grammar: {len(self._asked)} grammars wait to be compiled, more are not taken")
            self._number += 1
            number = self._number
            self._asked[number] = future, grammars
        self._post({"id": number, "grammars": [[grammar.kind, grammar.source] for grammar in grammars]})
        future.add_done_callback(partial(self._drop, number))
        if self._ended:  # meanwhile
            self._fail()
        return future

    def close(self) -> None:
        """End it, and its children by it."""
        self._post({})
        try:
            self._popen.wait(2)
        except subprocess.TimeoutExpired:
            self._popen.kill()

    def _drop(self, number: int, future: Future[Trial]) -> None:
        with self._lock:
            dropped = self._asked.pop(number, None)
        if future.cancelled() and dropped is not None:
            self._post({"id": number})

    def _post(self, message: dict[str, Any]) -> None:
        self._outbox.put(lambda connection: connection.send_bytes(json.dumps(message).encode()))

    def _write(self) -> None:
        with suppress(OSError):
            while (send := self._outbox.get()) is not None:
                send(self._connection)

    def _read(self) -> None:
        try:
            while True:
                self._take(json.loads(self._connection.recv_bytes()))
        except (EOFError, OSError):
            pass
        self._ended = True
        self._outbox.put(None)
        self._connection.close()
        self._popen.wait()
        self._fail()

    def _take(self, answer: dict[str, Any]) -> None:
        with self._lock:
            future, grammars = self._asked.pop(answer["id"], (None, []))
        if future is None or not future.set_running_or_notify_cancel():
            return
        if "rules" in answer:
            future.set_result(Trial(answer["rules"], answer["bytes"], answer["slow"]))
        elif "busy" in answer:
            future.set_exception(TrialsBusyError(answer["busy"]))
        else:
            future.set_exception(GrammarRefusedError(answer["problem"], grammars[answer["guilty"]]))

    def _fail(self) -> None:
        with self._lock:
            waiting, self._asked = self._asked, {}
        for future, _ in waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(TrialsEndedError())
