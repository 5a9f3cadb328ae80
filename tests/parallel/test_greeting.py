"""Who comes in at a listener: who knows the token, and nobody else, however many strangers stand before it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tinyllm.parallel import greeting
from tinyllm.parallel.greeting import CHALLENGE, GREETING, Listener, StrangerError, connect
from tinyllm.parallel.link import Link

TOKEN, OTHER = "a text that nobody guesses", "another text that nobody guesses"


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Listens at a free port."""
    made = Listener(("127.0.0.1", 0))
    yield made
    made.close()


class Accepting(threading.Thread):
    """Accepts one connection."""

    def __init__(self, listener: Listener, seconds: float = 10.0) -> None:
        super().__init__()
        self._listener, self._deadline = listener, time.monotonic() + seconds
        self.links: list[Link] = []
        self.start()

    def run(self) -> None:
        """Until somebody has come, or nobody in time."""
        with suppress(TimeoutError):
            self.links.append(self._listener.accept(TOKEN, 1.0, self._deadline))

    def link(self) -> Link:
        """The other end of a connection."""
        self.join()
        return self.links[0]


def read(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or what comes before the end."""
    found = b""
    while len(found) < size and (part := connection.recv(size - len(found))):
        found += part
    return found


def test_whoever_does_not_know_the_token_is_turned_away(listener: Listener) -> None:
    accepting = Accepting(listener)
    with pytest.raises(StrangerError, match="does not know the token"):
        connect(listener.address, OTHER, 1.0)
    address = listener.address
    link = connect(address, TOKEN, 1.0)
    accepting.link().send("hello", number=1)
    assert link.receive().values == {"number": 1}
    listener.close()
    with pytest.raises(OSError, match="refused"):
        connect(address, TOKEN, 1.0)


def test_a_stranger_is_shown_no_proof(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes that a token could be guessed by, whether it says nothing, or says what it is told."""
    monkeypatch.setattr(greeting, "LISTENER_PATIENCE", 0.3)
    accepting = Accepting(listener, 5.0)
    for said in (b"", GREETING + bytes(CHALLENGE), GREETING + bytes(CHALLENGE + 32), b"GET / HTTP/1.1" * 9):
        with socket.create_connection(listener.address) as stranger:
            stranger.settimeout(5)
            stranger.sendall(said)
            with suppress(ConnectionError):
                assert read(stranger, 1000)[len(GREETING) + CHALLENGE :] == b""
    with socket.create_connection(listener.address) as echo:
        echo.settimeout(5)
        echo.sendall(echo.recv(len(GREETING) + CHALLENGE))
        assert echo.recv(1) == b""
    connect(listener.address, TOKEN, 1.0)
    accepting.link()


def test_one_who_dribbles_is_not_waited_for(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "LISTENER_PATIENCE", 0.3)
    ended, sent = threading.Event(), list[int]()
    with socket.create_connection(listener.address) as stranger:

        def dribble() -> None:
            with suppress(OSError):
                for byte in GREETING + bytes(CHALLENGE):
                    stranger.sendall(bytes([byte]))
                    sent.append(byte)
                    if ended.wait(0.05):
                        break

        dribbling = threading.Thread(target=dribble)
        dribbling.start()
        with pytest.raises(TimeoutError):
            listener.accept(TOKEN, 1.0, time.monotonic() + 0.2)
        assert len(sent) < len(GREETING) + CHALLENGE
        ended.set()
        dribbling.join()


def test_one_behind_a_stranger_comes_in(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "LISTENER_PATIENCE", 0.5)
    monkeypatch.setattr(greeting, "CONNECT_PATIENCE", 0.2)
    with socket.create_connection(listener.address):
        accepting = Accepting(listener)
        link = connect(listener.address, TOKEN, 1.0, time.monotonic() + 10)
        link.send("hello")
        assert accepting.link().receive().what == "hello"


def test_a_listener_that_is_not_there_yet_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()[:2]
    found: list[Link] = []

    def come_later() -> None:
        time.sleep(0.3)
        found.append(Listener(address).accept(TOKEN, 1.0, time.monotonic() + 10))

    listening = threading.Thread(target=come_later)
    listening.start()
    link = connect(address, TOKEN, 1.0, time.monotonic() + 10)
    listening.join()
    link.send("hello")
    assert found[0].receive().what == "hello"


def test_a_connection_to_itself_is_tried_again(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port from which it connects may be the one at which nobody listens yet."""
    itself, connected = socket.socket(), socket.create_connection
    itself.bind(("127.0.0.1", 0))
    itself.connect(itself.getsockname())
    ends = iter([lambda *arguments: itself, connected])
    monkeypatch.setattr(socket, "create_connection", lambda *arguments: next(ends)(*arguments))
    accepting = Accepting(listener)
    connect(listener.address, TOKEN, 1.0, time.monotonic() + 10).send("hello")
    assert accepting.link().receive().what == "hello"
