"""How processes find one another over TCP: each shows the other that it knows their token, without saying it.

Source: the challenge and response of RFC 2104's HMAC, with SHA-256. Nothing that is sent afterwards is secret or
signed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import time

from tinyllm.errors import TinyllmError
from tinyllm.parallel.frames import Link

GREETING = b"tinyllm pipeline 1\n"
CHALLENGE = 32
"""Bytes that are drawn at random, for each connection anew."""
GREETING_PATIENCE = 10.0
"""Seconds in which a stranger has to show that it is none."""
PAUSE = 0.1
"""Seconds between two tries to connect."""

Address = tuple[str, int]


class StrangerError(TinyllmError):
    """The other side of a connection does not know the token."""


class Door:
    """Listens for other processes."""

    def __init__(self, address: Address, backlog: int) -> None:
        family, kind, protocol, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(place)
            self._socket.listen(backlog)
        except BaseException:
            self._socket.close()
            raise

    @property
    def address(self) -> Address:
        """Where it listens."""
        host, port, *_ = self._socket.getsockname()
        return str(host), int(port)

    def fileno(self) -> int:
        """To wait for."""
        return self._socket.fileno()

    def accept(self, token: str, patience: float, deadline: float) -> Link:
        """The next connection of somebody who knows the token; strangers are turned away.

        Raises:
            TimeoutError: nobody came until `deadline`, on the clock of `time.monotonic`.
        """
        while True:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            connection, _ = self._socket.accept()
            try:
                _greet(connection, token, b"accepts", b"connects")
            except (StrangerError, OSError, EOFError):
                connection.close()
                continue
            return Link(connection, patience)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def knock(address: Address, token: str, patience: float, deadline: float = 0.0) -> Link:
    """Connect to a `Door`, which may not be there yet: tried until `deadline`, once at least.

    Raises:
        OSError: it is not there. StrangerError: who listens does not know the token.
    """
    while True:
        try:
            connection = socket.create_connection(address, GREETING_PATIENCE)
            break
        except OSError:
            if time.monotonic() + PAUSE > deadline:
                raise
        time.sleep(PAUSE)
    try:
        _greet(connection, token, b"connects", b"accepts")
    except (OSError, EOFError) as error:
        connection.close()
        raise StrangerError(f"{address[0]}:{address[1]}: who listens there does not know the token") from error
    except BaseException:
        connection.close()
        raise
    return Link(connection, patience)


def _greet(connection: socket.socket, token: str, ours: bytes, theirs: bytes) -> None:
    """Both sides prove the token. The sides differ, so that none can be made to answer for itself."""
    connection.settimeout(GREETING_PATIENCE)
    own = secrets.token_bytes(CHALLENGE)
    connection.sendall(GREETING + own)
    greeting = _exactly(connection, len(GREETING) + CHALLENGE)
    other = greeting[len(GREETING) :]
    connection.sendall(_proof(token, ours, other, own))
    wanted = _proof(token, theirs, own, other)
    if not hmac.compare_digest(_exactly(connection, len(wanted)), wanted) or greeting[: len(GREETING)] != GREETING:
        raise StrangerError("the other side does not know the token")


def _proof(token: str, side: bytes, *challenges: bytes) -> bytes:
    return hmac.digest(token.encode(), side + b"".join(challenges), hashlib.sha256)


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise EOFError("it has hung up")
        found += part
    return found
