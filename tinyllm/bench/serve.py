"""`tinyllm bench serve`: puts a load on any OpenAI server and times what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from tinyllm.bench.serve_client import CONNECTION, Outcome, Target, ask, client
from tinyllm.bench.serve_plan import Load, Planned, plan, warm_up
from tinyllm.errors import TinyllmError, invalid

OnDone = Callable[[Outcome], None]


@dataclass(frozen=True)
class Run:
    """Outcomes in the order of the plan, and what was learnt of the server on the way."""

    target: Target
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()


def base_url(text: str) -> str:
    """`http://host:8000/v1` from what was typed, with `/v1` added where no path is given. Raises `InvalidInputError`
    for what is no URL."""
    try:
        parts = urlsplit(text)
        wrong = (
            parts.scheme not in ("http", "https") or not parts.hostname or (parts.port is not None and parts.port < 1)
        )
    except ValueError:
        wrong = True
    if wrong:
        raise invalid("bench serve", "--url", "an address such as http://127.0.0.1:8000", repr(text))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))


async def run(
    target: Target,
    load: Load,
    *,
    api_key: str | None = None,
    timeout: float = 600.0,
    warm_ups: int = 1,
    on_done: OnDone = lambda o: None,
    on_start: Callable[[Run], None] = lambda r: None,
) -> Run:
    """Put the load on the server.

    Args:
        target: where to; an empty `model` takes the first that the server lists.
        timeout: seconds for each request. warm_ups: requests before that are not counted.
        on_start: called after the warm-up with the run as far as it is known, for a caller who breaks it off.

    Raises:
        TinyllmError: the server cannot be reached, or does not answer the warm-up.
    """
    async with client(timeout, api_key) as http:
        if not target.model:
            target = replace(target, model=await first_model(http, target.url))
        target, notes = await _warm(http, target, load, timeout, warm_ups)
        on_start(Run(target, (), tuple(notes)))
        origin = time.perf_counter()

        async def send(planned: Planned) -> Outcome:
            outcome = await ask(http, target, planned, origin, timeout)
            on_done(outcome)
            return outcome

        if load.rate is not None:
            outcomes = await _open_loop(plan(load), send, origin)
        else:
            outcomes = await _closed_loop(plan(load), send, load.concurrency or 1)
    return Run(target, tuple(sorted(outcomes, key=lambda o: o.index)), tuple(notes))


async def first_model(http: httpx.AsyncClient, url: str) -> str:
    """The first model that a server lists. Raises `TinyllmError` where there is none."""
    try:
        response = await http.get(f"{url}/models")
        found: Any = response.json()["data"][0]["id"] if response.status_code == 200 else None
    except (httpx.HTTPError, OSError) as error:
        raise TinyllmError(f"{url}: cannot be reached: {error or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise TinyllmError(
            f"{url}/models: expected a list of models, got something else; name one with --model"
        ) from error
    if not isinstance(found, str):
        raise TinyllmError(
            f"{url}/models: expected a list of models, got status {response.status_code}; name one with --model"
        )
    return found


async def _warm(
    http: httpx.AsyncClient, target: Target, load: Load, timeout: float, times: int
) -> tuple[Target, list[str]]:
    """Warm up, and leave `stream_options` out where the server refuses it. Gives the target that works, and notes."""
    notes: list[str] = []
    for number in range(times):
        planned = warm_up(load, number)
        outcome = await ask(http, target, planned, time.perf_counter(), timeout)
        if outcome.error in ("400", "422") and target.usage:
            plain = replace(target, usage=False)
            again = await ask(http, plain, planned, time.perf_counter(), timeout)
            if again.error is None:
                target, outcome = plain, again
                notes.append("the server refuses stream_options, so it was not asked for usage")
        if outcome.error == CONNECTION:
            raise TinyllmError(f"{target.url}: cannot be reached: {outcome.message}")
        if outcome.error is not None:
            raise TinyllmError(f"{target.url}: the warm-up request failed ({outcome.error}): {outcome.message}")
    return target, notes


async def _open_loop(requests: Iterator[Planned], send: Callable[[Planned], Any], origin: float) -> list[Outcome]:
    """Each at its time, whether or not others are done."""
    tasks = []
    for planned in requests:
        await asyncio.sleep(max(0.0, (planned.at or 0.0) - (time.perf_counter() - origin)))
        tasks.append(asyncio.create_task(send(planned)))
    return list(await asyncio.gather(*tasks))


async def _closed_loop(requests: Iterator[Planned], send: Callable[[Planned], Any], concurrency: int) -> list[Outcome]:
    """`concurrency` at any time: the next as soon as one is done."""
    outcomes: list[Outcome] = []

    async def worker() -> None:
        for planned in requests:  # all workers draw from the one iterator
            outcomes.append(await send(planned))

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return outcomes
