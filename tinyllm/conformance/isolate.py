"""Runs each op in a process of its own, so that an abort costs one check and a hang is cut off."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.guard import ENVIRONMENT, damage
from tinyllm.conformance.result import Outcome, Result
from tinyllm.conformance.run import snippet
from tinyllm.conformance.worker import LIST
from tinyllm.errors import TinyllmError

LOADING = 60.0
"""Seconds that a process may take longer before its first word: libraries are slow to load."""


class WorkerError(TinyllmError):
    """What a process that ended, hung or refused before it ran any check had to say."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def isolated_ops(plan: Plan, timeout: float | None = None) -> list[str]:
    """The ops that a plan has checks of, told by a process that loads the plugins and the backend in this one's stead.

    Raises:
        WorkerError: the plan asks for what is not there, or loading hung or took the process down.
    """
    with _Worker(plan, LIST) as worker:
        for line in worker.lines(timeout):
            if "error" in line:
                raise WorkerError(line["error"], line["exit_code"])
            return [str(op) for op in line["ops"]]
        raise WorkerError(f"backend {plan.backend!r}: while it was loaded: {worker.end(timeout)}")


def run_isolated(
    plan: Plan,
    ops: Iterable[str],
    timeout: float | None = None,
    on_start: Callable[[str], None] = lambda check_id: None,
) -> Iterator[Result]:
    """The results of a plan, op by op. The processes load plugins and settings anew, as this one did.

    Args:
        ops: those that the plan has checks of.
        timeout: seconds that one check may take; None: as long as it likes. Loading has a minute more.
        on_start: told the id of each check before it runs.
    """
    for op in ops:
        yield from _run_op(replace(plan, ops=(op,)), timeout, on_start)


def _run_op(plan: Plan, timeout: float | None, on_start: Callable[[str], None]) -> Iterator[Result]:
    """Starts again behind the check at which a process ended."""
    done, total = 0, 1
    while done < total:
        with _Worker(plan, str(done)) as worker:
            started: dict[str, Any] | None = None
            counted = False
            for line in worker.lines(timeout):
                if "checks" in line:
                    total, counted = int(line["checks"]), True
                elif "start" in line:
                    started = line["start"]
                    on_start(line["start"]["id"])
                else:
                    done, started = done + 1, None
                    yield Result.from_json(line["result"])
            if done == total:  # how it ends after its last check is nobody's failure; with code 0 before it, it is one
                return
            if started is None:
                op = plan.ops[0]
                started = {
                    "id": f"{plan.backend}/{op}[]/signature",
                    "backend": plan.backend.partition(":")[0],
                    "op": op,
                    "kernel": "",
                    "dtype": "",
                    "case": "",
                    "aspect": "signature",
                }
                total = total if counted else 0  # its checks could not be told: no use to start again
            done += 1
            message = worker.end(timeout) if counted else f"while kernels were loaded: {worker.end(timeout)}"
            again = snippet(started["id"], started["aspect"] or "isolated", plan)
            yield Result(**started, outcome=Outcome.FAIL, message=message, seconds=timeout or 0.0, snippet=again)


class _Worker:
    """A child process and the pipe that it writes its lines to."""

    def __init__(self, plan: Plan, skip: str) -> None:
        self._read, write = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        self._folder = tempfile.TemporaryDirectory(prefix="tinyllm-check-") if plan.solution else None
        own = {"TMPDIR": self._folder.name} if self._folder else {}  # where it lays out sources; gone when it is gone
        command = [sys.executable, "-m", "tinyllm.conformance.worker", json.dumps(asdict(plan)), skip, str(write)]
        self._process = subprocess.Popen(
            command,
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            env=os.environ | ENVIRONMENT | own,
        )
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
        if self._folder:
            self._folder.cleanup()

    def lines(self, timeout: float | None) -> Iterator[dict[str, Any]]:
        """What it writes, until it ends or says nothing for too long. It may take its time to begin: libraries are slow
        to load."""
        selector, rest, begun = selectors.DefaultSelector(), b"", False
        selector.register(self._read, selectors.EVENT_READ)
        while True:
            if not selector.select(None if timeout is None else timeout if begun else timeout + LOADING):
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

    def end(self, timeout: float | None) -> str:
        """How it ended instead, with the last line that it said."""
        if self._hung:
            return f"no answer within {timeout:g} s: cut off"
        code = self._process.wait()
        how = (
            f"the process was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"the process ended with code {code}"
        )
        self._said.seek(0)
        text = self._said.read().decode(errors="replace").strip()
        said, written = text.splitlines(), damage(text) if code < 0 else ""
        if written:
            return f"{written}: {how}"
        return how + (f": {said[-1]}" if said else "")
