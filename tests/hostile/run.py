"""`python -m tests.hostile.run`: what others see of `tinyllm serve` while hostile clients of each kind ask it.

Each kind has a server of its own. In each round some seconds with nobody beside the watching clients are followed by
some with the hostile ones, and by some with as many harmless requests where those would be answered as well.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import IO

import httpx
import psutil
from rich.console import Console
from rich.table import Column, Table

from tests.hostile.kinds import KINDS, MODEL, Kind, Request, chat
from tests.hostile.watch import HEADERS, Seen, Watch

SERVE = (sys.executable, "-m", "tinyllm.cli.main", "serve", "--model", "smollm2")


@dataclass
class Measured:
    """What was seen beside one kind. alone, hostile, harmless: of each round. memory: bytes that the server has more
    after it. pages: that are held after it. end: seconds that SIGTERM takes while the requests run."""

    kind: Kind
    alone: list[Seen] = field(default_factory=list)
    hostile: list[Seen] = field(default_factory=list)
    harmless: list[Seen] = field(default_factory=list)
    memory: int = 0
    pages: int = 0
    end: float = 0.0

    def kept(self, beside: Sequence[Seen]) -> list[float]:
        """The speed of the stream in each round, as a part of what it is alone."""
        return [seen.speed / alone.speed for seen, alone in zip(beside, self.alone, strict=True)]


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


@contextmanager
def served(command: Sequence[str], log: IO[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and its URL, on a port that was free."""
    server = subprocess.Popen([*command, "--port", "0", "--served-name", MODEL], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = server.stdout.readline()
        if " serves " not in line:
            log.seek(0)
            sys.exit(f"tinyllm serve: expected it to serve, it ended: {log.read()[-500:]}")
        yield server, line.split()[0]
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


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
            measured.alone.append(await watch.beside(None, 0, seconds, first))
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


def _memory(server: subprocess.Popen[str]) -> int:
    process = psutil.Process(server.pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


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
    names = ("", "/health p99", "stream keeps", "beside harmless ones", "short requests", "memory", "pages", "SIGTERM", "answers")
    shown = Table(*(Column(name, overflow="fold") for name in names), title="tinyllm serve beside hostile clients")
    for one in found:
        health = sorted(wait for seen in one.hostile for wait in seen.health)
        normal = [wait for seen in one.hostile for wait in seen.normal]
        refused = sum(seen.refused for seen in one.hostile)
        answers = sum((seen.answers for seen in one.hostile), Counter[str]())
        shown.add_row(
            f"{one.kind.name} x{one.kind.clients}",
            f"{1000 * health[int(len(health) * 0.99)]:.0f} ms" if health else "none answered",
            _share(one.kept(one.hostile)),
            _share(one.kept(one.harmless)) if one.harmless else "",
            f"{len(normal) - refused} of {len(normal)}" + (f", {max(normal):.1f} s" if normal else ""),
            f"{one.memory / 2**20:+.0f} MiB",
            str(one.pages),
            f"{one.end:.1f} s",
            ", ".join(f"{name}: {times}" for name, times in sorted(answers.items())),
        )
    return shown


def _share(parts: list[float]) -> str:
    return f"{median(parts):.0%} ({min(parts):.0%} to {max(parts):.0%})"


if __name__ == "__main__":
    main()
