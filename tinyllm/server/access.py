"""Who may ask the server: by the name under which it is reached, by the key, and by the origin of a web page."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from tinyllm.errors import InvalidInputError
from tinyllm.openai.errors import ApiError
from tinyllm.server.errors import error_response

PUBLIC = frozenset(("/", "/health", "/ready", "/docs", "/openapi.json"))
"""Addresses that need no key: probes, and pages that a browser opens without one."""
ASSETS = "/docs-assets"


class CheckHost:
    """Refuses requests whose Host header does not name this server.

    A page of another site can be made to reach this address under that site's name (DNS rebinding); the browser then
    sends the site's name.

    Args:
        names: those that are let in, in small letters, with any port.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = b", ".join(value for name, value in scope["headers"] if name == b"host").decode("latin-1")
            if re.sub(r":\d*$", "", header).lower() not in self._names:
                message = (
                    f"host: expected localhost, or a name that the server was given with --allowed-host, got "
                    f"{header[:80] or 'none'!r}"
                )
                await error_response(ApiError(403, message, code="host_not_allowed"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


class CheckKey:
    """Refuses requests without the server's key, but for `PUBLIC` addresses."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app, self._key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._may_pass(scope):
            message = "api key: expected the header 'Authorization: Bearer KEY' with the server's key"
            await error_response(ApiError(401, message, code="invalid_api_key"))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["path"] in PUBLIC or scope["path"].startswith(f"{ASSETS}/"):
            return True
        kind, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a server that listens at an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    return address == "localhost"


def allowed_hosts(address: str, names: Collection[str], command: str = "serve") -> frozenset[str]:
    """What `CheckHost` lets in, for a server that listens at an address: the names of this machine, that address, and
    the names given. Empty, which lets in any, where other machines can reach it and no name is given.

    Raises:
        InvalidInputError: what was given is no name.
    """
    for name in names:
        if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", name):
            raise InvalidInputError(
                f"{command}: allowed-host: expected a name without scheme or port, such as ai.example, got {name!r}"
            )
    if not names and not is_loopback(address):
        return frozenset()
    listening = f"[{address}]" if ":" in address else address
    return frozenset(name.lower() for name in ("localhost", "127.0.0.1", "[::1]", listening, *names))


def check_origins(origins: Collection[str]) -> None:
    """Raises `InvalidInputError` for what no browser sends as an origin: it would never be let in, and nobody would
    know why."""
    for origin in origins:
        if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
            raise InvalidInputError(
                f"serve: cors: expected an origin without path, such as https://app.example, or *, got {origin!r}"
            )
