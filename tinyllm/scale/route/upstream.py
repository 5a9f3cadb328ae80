"""One try of a request at one replica: sent, and answered up to the first byte that can go on to the client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import httpx

Headers = list[tuple[bytes, bytes]]
_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"host", b"expect"),
    )
)
"""Headers that are between two neighbours alone (RFC 9110, 7.6.1), and `host`, which names this server."""
EVENT_STREAM = "text/event-stream"


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that are no business of two neighbours alone."""
    found = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in found if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in found if name not in _HOP_BY_HOP | named]


@dataclass(frozen=True)
class Answer:
    """What a replica answered. body: all of it, or of a stream its first bytes. rest: what follows, as it comes; None:
    nothing."""

    status: int
    headers: Headers
    body: bytes
    rest: AsyncIterator[bytes] | None
    response: httpx.Response


async def ask(client: httpx.AsyncClient, request: httpx.Request) -> Answer:
    """Send a request, and wait for what can go on: of a stream the first bytes, of all else the whole, so that nothing
    was sent to the client where a replica goes before. Whoever has the answer closes its response.

    Raises what httpx does.
    """
    response = await client.send(request, stream=True)
    try:
        headers = passed_on(response.headers.raw)
        chunks = response.aiter_raw()
        if response.headers.get("content-type", "").partition(";")[0].strip() != EVENT_STREAM:
            return Answer(response.status_code, headers, b"".join([c async for c in chunks]), None, response)
        async for chunk in chunks:
            if chunk:
                return Answer(response.status_code, headers, chunk, chunks, response)
        return Answer(response.status_code, headers, b"", None, response)
    except BaseException:
        await response.aclose()
        raise
