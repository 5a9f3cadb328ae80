"""What goes between processes over TCP: arrays arrive as they were, and what is none of ours is turned away."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tinyllm.parallel.frames import LENGTHS, MOST_ARRAYS, MOST_TEXT, Frame, FrameError, from_bytes, to_bytes
from tinyllm.parallel.link import Link, ready
from tinyllm.spec.dtypes import numpy_dtype


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
    again = from_bytes(to_bytes(frame))
    assert (again.what, again.values) == (frame.what, frame.values)
    assert [array.tobytes() for array in again.arrays.values()] == [array.tobytes() for array in frame.arrays.values()]


@pytest.mark.parametrize("array", [np.array([None]), np.array(["text"])], ids=["objects", "texts"])
def test_arrays_of_other_things_are_not_sent(array: np.ndarray) -> None:
    with pytest.raises(FrameError, match=r"^x: expected an array of one of float32, .*, got "):
        to_bytes(Frame("values", arrays={"x": array}))


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
        framed(kinds(["x", "float32", [0, 1 << 33, 1 << 33]])),
    ],
)
def test_what_is_no_frame_is_refused_before_it_costs_anything(sent: bytes, pair: tuple[socket.socket, Link]) -> None:
    bare, link = pair
    bare.sendall(sent)
    with pytest.raises(FrameError, match="expected"):
        link.receive()
    with pytest.raises(FrameError, match="expected"):
        from_bytes(sent)


def test_half_a_frame_is_not_waited_for_without_end(pair: tuple[socket.socket, Link]) -> None:
    bare, link = pair
    bare.sendall(framed(kinds(["x", "float32", [2]]), 8) + b"1234")
    with pytest.raises(TimeoutError):
        link.receive()
    bare.sendall(framed(kinds())[:10])
    bare.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        link.receive()
