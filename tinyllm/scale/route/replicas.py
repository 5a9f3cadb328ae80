"""The replicas behind a router: how each is, as it says itself every so often."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from tinyllm.errors import InvalidInputError
from tinyllm.scale.policy import Fleet, Policy
from tinyllm.server.logs import log


def check_urls(urls: Sequence[str]) -> list[str]:
    """The addresses of replicas without a slash at their ends.

    Raises:
        InvalidInputError: there is none, one is no address, or one is there twice.
    """
    if not urls:
        raise InvalidInputError(
            "route: url: expected at least one address of a server, such as http://a:8000, got none"
        )
    found = [url.rstrip("/") for url in urls]
    for url in found:
        if not _is_url(url):
            raise InvalidInputError(f"route: url: expected an address such as http://a:8000, got {url[:200]!r}")
        if found.count(url) > 1:
            raise InvalidInputError(f"route: url: expected each address once, got {url} twice")
    return found


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    return named and not (parts.query or parts.fragment or parts.username) and not re.search(r"[\s\x00-\x1f]", url)


class Replicas:
    """Keeps a fleet's numbers current.

    Args:
        urls: the address of each replica.
        interval: seconds between two looks at a replica. timeout: those that a look has.
        api_key: what replicas are shown.
    """

    def __init__(
        self,
        urls: Sequence[str],
        policy: Policy,
        client: httpx.AsyncClient,
        interval: float = 1.0,
        timeout: float = 5.0,
        api_key: str | None = None,
    ) -> None:
        self.urls, self.policy, self.fleet, self._client = tuple(urls), policy, Fleet(len(urls)), client
        self._interval, self._timeout = interval, timeout
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    async def watch(self) -> None:
        """Look at all replicas again and again, at each by itself, so that one that hangs holds up none."""

        async def watch(number: int) -> None:
            while True:
                await asyncio.sleep(self._interval)
                await self._look_at(number)

        await asyncio.gather(*map(watch, range(len(self.urls))))

    async def look(self) -> None:
        """Look at each replica once."""
        await asyncio.gather(*map(self._look_at, range(len(self.urls))))

    def failed(self, number: int, error: Exception) -> None:
        """A replica did not answer, and is left out until it does again. What it had in its cache is taken for gone,
        unless it is merely slow."""
        if self.fleet.healthy[number]:
            log.warning(
                "replica gone",
                extra={"fields": {"replica": self.urls[number], "error": f"{type(error).__name__}: {error}"}},
            )
        self.fleet.healthy[number] = False
        if not isinstance(error, (TimeoutError, httpx.TimeoutException)):
            self.policy.forget(number)

    async def _look_at(self, number: int) -> None:
        """`/health` says whether a replica lives. `/status`, which other servers need not have, says whether it takes
        requests, and what it is at."""
        try:
            async with asyncio.timeout(self._timeout):
                (await self._get(number, "/health")).raise_for_status()
                answer = await self._get(number, "/status")
            status = answer.json() if answer.status_code == 200 else {}
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            self.failed(number, error)
            return
        except ValueError:
            status = {}
        self._told(number, status if isinstance(status, dict) else {})

    async def _get(self, number: int, path: str) -> httpx.Response:
        return await self._client.get(self.urls[number] + path, headers=self._headers)

    def _told(self, number: int, status: dict[str, object]) -> None:
        fleet, takes = self.fleet, status.get("ready", True) is True
        if takes and not fleet.healthy[number]:
            log.info("replica ready", extra={"fields": {"replica": self.urls[number]}})
        running, waiting, pages, held = (_count(status.get(n)) for n in ("running", "waiting", "pages", "pages_held"))
        fleet.healthy[number] = takes
        fleet.told[number] = running + waiting
        fleet.pages_held[number] = held / pages if pages else 0.0


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
