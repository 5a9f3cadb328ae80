"""What other clients see of a server while requests run beside them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx

from tests.hostile.kinds import Request, chat

HEADERS = {"content-type": "application/json"}
STREAM = chat(max_tokens=400, stream=True, ignore_eos=True)
NORMAL = chat(max_tokens=4)
PAUSE = 0.25
"""Seconds after which a hostile client asks again."""


@dataclass
class Seen:
    """What was seen in some seconds. health, normal: seconds until `/health`, until a short request was answered.
    pieces: of a stream. answers: of the requests beside them, by status or error."""

    seconds: float = 0.0
    health: list[float] = field(default_factory=list)
    normal: list[float] = field(default_factory=list)
    refused: int = 0
    pieces: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def speed(self) -> float:
        """Pieces of the stream a second."""
        return self.pieces / self.seconds


class Watch:
    """One client that asks for `/health`, one that reads a stream, and one that sends short requests, as long as it is
    open."""

    def __init__(self, base_url: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url, timeout=120, headers=HEADERS, limits=httpx.Limits(max_connections=None)
        )
        self._seen = Seen()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Watch]:
        """Watch until the block ends."""
        async with self._client:
            tasks = [asyncio.create_task(watch()) for watch in (self._health, self._stream, self._normal)]
            try:
                yield self
            finally:
                await _end(tasks)

    async def beside(self, make: Callable[[int], Request], clients: int, seconds: float, first: int) -> Seen:
        """What is seen while so many clients, or none, send requests, which are numbered from `first`."""
        numbers = count(first)
        tasks = [asyncio.create_task(self._ask(make, numbers)) for _ in range(clients)]
        try:
            await asyncio.sleep(0.5)
            self._seen, start = Seen(), time.perf_counter()
            await asyncio.sleep(seconds)
            seen = self._seen
            seen.seconds = time.perf_counter() - start
        finally:
            await _end(tasks)
        return seen

    async def _ask(self, make: Callable[[int], Request], numbers: count[int]) -> None:
        while True:
            request = make(next(numbers))
            try:
                response = await self._client.post(request.path, content=request.body)
                self._seen.answers[str(response.status_code)] += 1
            except httpx.HTTPError as error:
                self._seen.answers[type(error).__name__] += 1
            await asyncio.sleep(PAUSE)

    async def _health(self) -> None:
        while True:
            start = time.perf_counter()
            (await self._client.get("/health")).raise_for_status()
            self._seen.health.append(time.perf_counter() - start)
            await asyncio.sleep(0.02)

    async def _normal(self) -> None:
        while True:
            start = time.perf_counter()
            response = await self._client.post(NORMAL.path, content=NORMAL.body)
            self._seen.normal.append(time.perf_counter() - start)
            self._seen.refused += response.status_code != 200
            await asyncio.sleep(0.5)

    async def _stream(self) -> None:
        while True:
            async with self._client.stream("POST", STREAM.path, content=STREAM.body) as response:
                async for line in response.aiter_lines():
                    self._seen.pieces += line.startswith("data: {")


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
