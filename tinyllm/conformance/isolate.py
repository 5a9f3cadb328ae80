"""Runs each op in a process of its own, so that an abort costs one check and a hang is cut off."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.result import Outcome, Result
from tinyllm.errors import TinyllmError


class WorkerError(TinyllmError):
    """A process that ended before it ran any check."""


def run_isolated(plan: Plan, ops: Iterable[str], timeout: float | None = None) -> Iterator[Result]:
    """The results of a plan, op by op. The processes load plugins and settings anew, as this one did.

    Args:
        ops: those that the plan has checks of.
        timeout: seconds that one check may take; None: as long as it likes.
    """
    for op in ops:
        yield from _run_op(replace(plan, ops=(op,)), timeout)


def _run_op(plan: Plan, timeout: float | None) -> Iterator[Result]:
    """Starts again behind the check at which a process ended."""
    done, total = 0, 1
    while done < total:
        with _Worker(plan, done) as worker:
            started: dict[str, Any] | None = None
            for line in worker.lines(timeout):
                if "checks" in line:
                    total = int(line["checks"])
                elif "start" in line:
                    started = line["start"]
                else:
                    done, started = done + 1, None
                    yield Result.from_json(line["result"])
            if worker.finished():
                return
            if started is None:
                raise WorkerError(f"{plan.backend}: {plan.ops[0]}: {worker.end(timeout)}")
            done += 1
            snippet = f"tinyllm check {plan.backend} --case {started['id']!r}" + (f" --seed {plan.seed}" if plan.seed else "")
            yield Result(**started, outcome=Outcome.FAIL, message=worker.end(timeout), seconds=timeout or 0.0, snippet=snippet)


class _Worker:
    """A child process and the pipe that it writes its lines to."""

    def __init__(self, plan: Plan, skip: int) -> None:
        self._read, write = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        command = [sys.executable, "-m", "tinyllm.conformance.worker", json.dumps(asdict(plan)), str(skip), str(write)]
        self._process = subprocess.Popen(command, pass_fds=(write,), stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said)
        os.close(write)
        self._hung = False

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._read)
        self._said.close()

    def lines(self, timeout: float | None) -> Iterator[dict[str, Any]]:
        """What it writes, until it ends or says nothing for too long. It may take its time to begin: libraries are slow to load."""
        selector, rest, begun = selectors.DefaultSelector(), b"", False
        selector.register(self._read, selectors.EVENT_READ)
        while True:
            if not selector.select(None if timeout is None else timeout if begun else timeout + 60):
                self._hung = True
                self._process.kill()
                return
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                self._process.wait()
                return
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                begun = True
                yield json.loads(line)

    def finished(self) -> bool:
        """Whether it came to its end by itself and in peace."""
        return not self._hung and self._process.wait() == 0

    def end(self, timeout: float | None) -> str:
        """How it ended instead, with the last line that it said."""
        if self._hung:
            return f"no answer within {timeout:g} s: cut off"
        code = self._process.wait()
        how = f"the process was ended by {signal.Signals(-code).name}" if code < 0 else f"the process ended with code {code}"
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        return how + (f": {said[-1]}" if said else "")
