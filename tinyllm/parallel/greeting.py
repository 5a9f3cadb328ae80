"""How processes find one another over TCP: each shows the other that it knows their token, without saying it.

Source: the challenge and response of RFC 2104's HMAC, with SHA-256. Whoever connects proves it first, so that a
stranger is shown nothing that depends on the token. Nothing that is sent afterwards is secret or signed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import time

from tinyllm.errors import TinyllmError
from tinyllm.parallel.link import Link

GREETING = b"tinyllm pipeline 1\n"
CHALLENGE = 32
"""Bytes that are drawn at random, for each connection anew."""
LISTENER_PATIENCE = 2.0
"""Seconds in which whoever connects has to prove that it knows the token: others wait behind it."""
CONNECT_PATIENCE = 10.0
"""Seconds until the turn of who connects, as strangers may be before it, and then for the other side to prove it."""
PAUSE = 0.1
"""Seconds between two tries to connect."""

Address = tuple[str, int]


class StrangerError(TinyllmError):
    """The other side of a connection does not know the token."""


class Listener:
    """Listens for other processes."""

    def __init__(self, address: Address) -> None:
        family, kind, protocol, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(place)
            self._socket.listen()
        except BaseException:
            self._socket.close()
            raise

    @property
    def address(self) -> Address:
        """Where it listens."""
        host, port, *_ = self._socket.getsockname()
        return str(host), int(port)

    def accept(self, token: str, patience: float, deadline: float) -> Link:
        """The next connection of somebody who knows the token; strangers are turned away.

        Raises:
            TimeoutError: nobody came until `deadline`, on the clock of `time.monotonic`. Whoever has come by then has
                `LISTENER_PATIENCE` all the same.
        """
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            connection, _ = self._socket.accept()
            try:
                _let_prove(connection, token, time.monotonic() + LISTENER_PATIENCE)
            except (StrangerError, OSError, EOFError):
                connection.close()
                continue
            return Link(connection, patience)
        raise TimeoutError("timed out")

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def connect(address: Address, token: str, patience: float, deadline: float = 0.0) -> Link:
    """Connect to a `Listener`, which may not be there yet, or be busy: tried until `deadline`, once at least.

    Raises:
        OSError: it is not there. StrangerError: who listens does not know the token.
    """
    while True:
        try:
            return Link(_connected(address, token), patience)
        except OSError:
            if time.monotonic() + PAUSE > deadline:
                raise
        time.sleep(PAUSE)


def _connected(address: Address, token: str) -> socket.socket:
    connection = socket.create_connection(address, CONNECT_PATIENCE)
    try:
        if connection.getsockname() == connection.getpeername():  # nobody listens at a port that was free for this end
            raise ConnectionRefusedError("refused: nobody listens there")
        try:
            _prove(connection, token)
        except (ConnectionError, EOFError) as error:
            raise StrangerError(f"{address[0]}:{address[1]}: who listens there does not know the token") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prove(connection: socket.socket, token: str) -> None:
    """Be the side that connects. The sides' proofs differ, so that none can be made to answer for itself."""
    own, other = _challenges(connection, time.monotonic() + CONNECT_PATIENCE)
    connection.sendall(_proof(token, b"connects", other, own))
    # once it has been its turn it does not give up what the other side may have taken for done
    _check_proof(connection, _proof(token, b"accepts", own, other), time.monotonic() + CONNECT_PATIENCE)


def _let_prove(connection: socket.socket, token: str, deadline: float) -> None:
    """Be the side that listens."""
    own, other = _challenges(connection, deadline)
    _check_proof(connection, _proof(token, b"connects", own, other), deadline)
    connection.sendall(_proof(token, b"accepts", other, own))


def _challenges(connection: socket.socket, deadline: float) -> tuple[bytes, bytes]:
    own = secrets.token_bytes(CHALLENGE)
    connection.sendall(GREETING + own)
    greeting = _exactly(connection, len(GREETING) + CHALLENGE, deadline)
    if greeting[: len(GREETING)] != GREETING:
        raise StrangerError("the other side is no process of this model")
    return own, greeting[len(GREETING) :]


def _check_proof(connection: socket.socket, wanted: bytes, deadline: float) -> None:
    if not hmac.compare_digest(_exactly(connection, len(wanted), deadline), wanted):
        raise StrangerError("the other side does not know the token")


def _proof(token: str, side: bytes, *challenges: bytes) -> bytes:
    return hmac.digest(token.encode(), side + b"".join(challenges), hashlib.sha256)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    found = b""
    while len(found) < size:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        part = connection.recv(size - len(found))
        if not part:
            raise EOFError("it has hung up")
        found += part
    return found
