"""A contender in a process of its own, which times it whenever it is told to: a JSON line in, a JSON line out."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tinyllm.conformance.reports.machine import THREAD_VARIABLES
from tinyllm.errors import TinyllmError


@dataclass(frozen=True)
class Measured:
    """Seconds of prefill and of decoding, and the most memory that the process held so far, in megabytes."""

    prefill: float
    decode: float
    peak_mb: float


class Worker:
    """A process with a loaded contender.

    Args:
        threads: how many its libraries may use.
        log: takes what it says, and tells why it ended.

    Raises:
        TinyllmError: it could not load the model; says why.
    """

    def __init__(self, contender: str, model: Path, folder: Path | None, threads: int, log: IO[bytes]) -> None:
        self.log = log
        command = [sys.executable, "-m", __name__, contender, str(model), str(folder or ""), str(threads)]
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            bufsize=1,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
        )
        try:
            self._answer()
        except TinyllmError:
            self.close()
            raise
        self.loaded = time.perf_counter() - start
        """Seconds from the start of the process until the model was there."""

    def measure(self, prompts: list[list[int]], new_tokens: int) -> Measured:
        """As `Contender.measure`. Raises `TinyllmError` where it cannot, or has ended."""
        with suppress(BrokenPipeError):  # it has ended: the answer tells why
            print(json.dumps({"prompts": prompts, "new_tokens": new_tokens}), file=self.process.stdin, flush=True)
        return Measured(**self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):  # what it was not told any more is of no use
                if pipe is not None:
                    pipe.close()
        self.log.close()

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace").strip().splitlines()
            raise TinyllmError(said[-1] if said else f"ended with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TinyllmError(answer["error"])
        return answer


def peak_mb() -> float:
    """The most memory that this process held at a time, in megabytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # only Linux has the file; there, getrusage counts the process that began this one as well
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """`worker CONTENDER MODEL FOLDER THREADS`: answers `{}` when the model is loaded, then a `Measured` for each line
    `{"prompts": [[...]], "new_tokens": n}`; in its place `{"error": why}` where that cannot be done."""
    from tinyllm.bench.contenders import make

    contender, model, folder, threads = sys.argv[1:5]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not mix into the answers

    def answer(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=answers)

    try:
        loaded = make(contender, Path(model), Path(folder) if folder else None, int(threads))
    except TinyllmError as error:
        answer({"error": str(error)})
        return
    answer({})
    for line in sys.stdin:
        try:
            prefill, decode = loaded.measure(**json.loads(line))
        except TinyllmError as error:
            answer({"error": str(error)})
            continue
        answer({"prefill": prefill, "decode": decode, "peak_mb": peak_mb()})


if __name__ == "__main__":
    main()
