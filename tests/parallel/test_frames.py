"""What goes between processes over TCP: arrays arrive as they were, and what is none of ours is turned away."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tinyllm.parallel import greeting
from tinyllm.parallel.frames import LENGTHS, MOST_ARRAYS, MOST_TEXT, FrameError, Link, ready
from tinyllm.parallel.greeting import CHALLENGE, GREETING, Door, StrangerError, knock
from tinyllm.spec.dtypes import numpy_dtype

TOKEN, OTHER = "a text that nobody guesses", "another text that nobody guesses"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Link]]:
    """A bare connection, and a link at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        bare = socket.create_connection(server.getsockname())
        link = Link(server.accept()[0], 0.3)
    yield bare, link
    link.hang_up()
    bare.close()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(3, 5), (0, 7), (), (300, 400)])
def test_arrays_arrive_as_they_were(dtype: str, shape: tuple[int, ...], pair: tuple[socket.socket, Link]) -> None:
    bare, link = pair
    sender = Link(bare, 1.0)
    array = np.array(np.random.default_rng(0).standard_normal(shape) > 0, numpy_dtype(dtype))
    arrays = {"one": array, "odd": np.arange(3, dtype=np.int8), "turned": array.T}
    threading.Thread(target=sender.send, args=("values", arrays), kwargs={"number": 3, "dropped": [1, 2]}).start()
    frame = link.receive()
    assert (frame.what, frame.values) == ("values", {"number": 3, "dropped": [1, 2]})
    assert [*frame.arrays] == [*arrays]
    for name, sent in arrays.items():
        assert (frame.arrays[name].dtype, frame.arrays[name].shape) == (sent.dtype, sent.shape)
        assert frame.arrays[name].tobytes() == sent.tobytes() and frame.arrays[name].flags.aligned
    assert ready([link], 0) == []


def framed(header: object, nbytes: int = 0) -> bytes:
    """A frame's beginning."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return LENGTHS.pack(len(text), nbytes) + text


def kinds(*arrays: object) -> dict[str, object]:
    """The JSON of a frame with such arrays."""
    return {"what": "values", "values": {}, "arrays": [*arrays]}


@pytest.mark.parametrize(
    "sent",
    [
        LENGTHS.pack(MOST_TEXT + 1, 0),
        LENGTHS.pack(2, MOST_ARRAYS + 1),
        framed(b"{}"),
        framed(b"\xff"),
        framed(b"[" * 100_000),
        framed([1]),
        framed({"what": 1, "values": {}, "arrays": []}),
        framed(kinds(["x", "object", [1]]), 8),
        framed(kinds(["x", ["float32"], [1]]), 4),
        framed(kinds(["x", "float32", [-1, -1]]), 4),
        framed(kinds(["x", "float32", [True]]), 4),
        framed(kinds(["x", "float32", [1] * 9]), 4),
        framed(kinds(["x", "float32", [2]]), 4),
        framed(kinds(["x", "float32", [1 << 33, 1 << 33]]), 1 << 33),
    ],
)
def test_what_is_no_frame_is_refused_before_it_costs_anything(sent: bytes, pair: tuple[socket.socket, Link]) -> None:
    bare, link = pair
    bare.sendall(sent)
    with pytest.raises(FrameError, match="expected"):
        link.receive()


def test_half_a_frame_is_not_waited_for_without_end(pair: tuple[socket.socket, Link]) -> None:
    bare, link = pair
    bare.sendall(framed(kinds(["x", "float32", [2]]), 8) + b"1234")
    with pytest.raises(TimeoutError):
        link.receive()
    bare.sendall(framed(kinds())[:10])
    bare.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        link.receive()


def test_whoever_does_not_know_the_token_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "GREETING_PATIENCE", 0.3)
    door = Door(("127.0.0.1", 0), 4)
    found: list[Link] = []
    listening = threading.Thread(target=lambda: found.append(door.accept(TOKEN, 1.0, time.monotonic() + 20)))
    listening.start()
    with pytest.raises(StrangerError, match="does not know the token"):
        knock(door.address, OTHER, 1.0)
    with socket.create_connection(door.address) as silent, socket.create_connection(door.address) as echo:
        echo.settimeout(5)
        silent.settimeout(5)
        echo.sendall(echo.recv(len(GREETING) + CHALLENGE))
        proof = echo.recv(32)
        assert proof and not silent_answers(silent)
        echo.sendall(proof)  # what the door says of itself is not what it asks for
        assert echo.recv(1) == b""
    link = knock(door.address, TOKEN, 1.0)
    listening.join()
    found[0].send("hello", number=1)
    assert link.receive().values == {"number": 1}
    address = door.address
    door.close()
    with pytest.raises(OSError, match="refused"):
        knock(address, TOKEN, 1.0)


def silent_answers(connection: socket.socket) -> bool:
    """Whether there is more than the greeting for somebody who says nothing."""
    connection.recv(len(GREETING) + CHALLENGE)
    return connection.recv(1) != b""


def test_a_door_that_is_not_there_yet_is_knocked_at_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()[:2]
    found: list[Link] = []

    def come_later() -> None:
        time.sleep(0.3)
        found.append(Door(address, 1).accept(TOKEN, 1.0, time.monotonic() + 10))

    listening = threading.Thread(target=come_later)
    listening.start()
    link = knock(address, TOKEN, 1.0, time.monotonic() + 10)
    listening.join()
    link.send("hello")
    assert found[0].receive().what == "hello"
