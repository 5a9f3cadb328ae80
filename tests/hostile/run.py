"""`python -m tests.hostile.run`: what others see of `tinyllm serve` while hostile clients of each kind ask it.

Each kind has a server of its own. In each round some seconds with nobody beside the watching clients are followed by
some with the hostile ones, and by some with as many harmless requests where the hostile ones are answered, too. Ends
with 1 where others see more of them than they may.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

import httpx
import psutil
from rich.console import Console
from rich.table import Column, Table

from tests.hostile.kinds import KINDS, MODEL, Kind, Request, chat
from tests.hostile.watch import HEADERS, Seen, Watch

SERVE = (sys.executable, "-m", "tinyllm.cli.main", "serve", "--model", "smollm2")
ROOT = Path(__file__).parents[2]
GRACE = 35
"""Seconds: what replies have to end, and five more."""


@dataclass
class Measured:
    """What was seen beside one kind. alone, hostile, harmless: of each round. memory: MiB that the server has more
    after it. pages: that are held after it. end: seconds that SIGTERM takes while the requests run."""

    kind: Kind
    alone: list[Seen] = field(default_factory=list)
    hostile: list[Seen] = field(default_factory=list)
    harmless: list[Seen] = field(default_factory=list)
    memory: float = 0.0
    pages: int = 0
    end: float = 0.0

    @property
    def health(self) -> float:
        """The milliseconds within which 99 of 100 answers of `/health` came."""
        waits = sorted(wait for seen in self.hostile for wait in seen.health)
        return 1000 * waits[len(waits) * 99 // 100] if waits else math.inf

    @property
    def kept(self) -> list[float]:
        """The speed of the stream in each round, as a part of what it is alone."""
        return [seen.speed / alone.speed for seen, alone in zip(self.hostile, self.alone, strict=True)]

    @property
    def kept_of_harmless(self) -> list[float]:
        """The same, as a part of what it is beside as many harmless requests."""
        return [seen.speed / other.speed for seen, other in zip(self.hostile, self.harmless, strict=False)]

    @property
    def problems(self) -> list[str]:
        """What is worse than it may be."""
        refused = sum(seen.refused for seen in self.hostile)
        checks = {
            f"/health takes {self.health:.0f} ms": self.health > 100,
            "the stream loses more than a fifth of its speed": median(self.kept_of_harmless or self.kept) < 0.8,
            f"{refused} short requests were refused": refused > 0,
            f"{self.memory:.0f} MiB do not come back": self.memory > 100,
            f"{self.pages} pages are held": self.pages > 0,
            f"SIGTERM takes {self.end:.0f} s": self.end > GRACE,
        }
        return [problem for problem, found in checks.items() if found]


def main() -> None:
    """Measure the kinds that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="tests.hostile.run", description="Hostile clients against tinyllm serve.")
    names = [kind.name for kind in KINDS]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: %(default)s)")
    given = parser.parse_args()
    unknown = [name for name in given.kinds if name not in names]
    if unknown:
        parser.error(f"KIND: expected one of {', '.join(names)}, got {unknown[0]!r}")
    console = Console()
    found = []
    with console.status("") as status:
        for kind in KINDS:
            if not given.kinds or kind.name in given.kinds:
                status.update(f"{kind.name} ...")
                found.append(measure(kind, given.rounds, given.seconds))
    console.print(table(found))
    problems = [f"{one.kind.name}: {problem}" for one in found for problem in one.problems]
    for problem in problems:
        console.print(problem, style="red", highlight=False)
    sys.exit(1 if problems else 0)


@contextmanager
def served(command: Sequence[str], log: IO[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and its URL, on a port that was free."""
    arguments = [*command, "--port", "0", "--served-name", MODEL]
    server = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        if " serves " not in line:
            log.seek(0)
            sys.exit(f"tinyllm serve: expected it to serve, it ended: {log.read()[-500:]}")
        yield server, line.split()[0]
    finally:
        server.kill()
        server.communicate()


def measure(kind: Kind, rounds: int, seconds: float, command: Sequence[str] = SERVE) -> Measured:
    """Start a server and measure one kind of requests against it."""
    measured = Measured(kind)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log, served(command, log) as (server, url):
        _warm_up(url)
        before = _memory(server)
        asyncio.run(_watch(measured, url, rounds, seconds))
        measured.pages = _settle(url)
        measured.memory = _memory(server) - before
        measured.end = asyncio.run(_end(kind, url, server))
    return measured


def _warm_up(url: str) -> None:
    """Have done what is done once: the vocabulary of grammars, memory of steps with many replies."""
    for request in (chat(guided_choice=["a"]), *[chat(n=32)] * 2):
        httpx.post(url + request.path, content=request.body, headers=HEADERS, timeout=120).raise_for_status()


async def _watch(measured: Measured, url: str, rounds: int, seconds: float) -> None:
    kind = measured.kind
    async with Watch(url).open() as watch:
        for number in range(rounds):
            first = 1000 * number
            measured.alone.append(await watch.beside(kind.make, 0, seconds, first))
            measured.hostile.append(await watch.beside(kind.make, kind.clients, seconds, first))
            if kind.harmless is not None:
                measured.harmless.append(await watch.beside(kind.harmless, kind.clients, seconds, first))


def _settle(url: str) -> int:
    """Wait until the server has dropped the replies whose clients have gone; the pages that are held then."""
    for _ in range(100):
        status = httpx.get(f"{url}/status").json()
        if not status["pages_held"]:
            break
        time.sleep(0.1)
    time.sleep(1.0)  # memory goes back a little later
    return int(status["pages_held"])


def _memory(server: subprocess.Popen[str]) -> float:
    """MiB of a server and its children."""
    process = psutil.Process(server.pid)
    return float(sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))) / 2**20


async def _end(kind: Kind, url: str, server: subprocess.Popen[str]) -> float:
    """The seconds that a server takes to end while the requests run."""

    async def ask(client: httpx.AsyncClient, request: Request) -> None:
        await client.post(request.path, content=request.body)

    async with httpx.AsyncClient(base_url=url, timeout=60, headers=HEADERS) as client:
        asked = [asyncio.create_task(ask(client, kind.make(10_000 + number))) for number in range(kind.clients)]
        await asyncio.sleep(0.3)
        start = time.monotonic()
        server.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait)
        seconds = time.monotonic() - start
        await asyncio.gather(*asked, return_exceptions=True)
    return seconds


def table(found: Sequence[Measured]) -> Table:
    """A line for each kind."""
    names = ("kind", "/health p99", "stream", "of harmless", "short requests", "memory", "pages", "SIGTERM", "answers")
    shown = Table(*(Column(name, overflow="fold") for name in names), title="tinyllm serve beside hostile clients")
    for one in found:
        normal = [wait for seen in one.hostile for wait in seen.normal]
        answers = sum((seen.answers for seen in one.hostile), Counter[str]())
        shown.add_row(
            f"{one.kind.name} x{one.kind.clients}",
            f"{one.health:.0f} ms",
            _share(one.kept),
            _share(one.kept_of_harmless),
            f"{len(normal)}, in up to {max(normal):.1f} s" if normal else "0",
            f"{one.memory:+.0f} MiB",
            str(one.pages),
            f"{one.end:.1f} s",
            ", ".join(f"{times} x {name}" for name, times in sorted(answers.items())),
        )
    return shown


def _share(parts: list[float]) -> str:
    return f"{median(parts):.0%} ({min(parts):.0%} to {max(parts):.0%})" if parts else ""


if __name__ == "__main__":
    main()
