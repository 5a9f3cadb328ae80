"""Files that are not what they should be, and how a reader must take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tinyllm.errors import CheckpointError


def assert_refused(read: Callable[[Path], Any], path: Path, data: bytes, message: str) -> None:
    """A file of these bytes is refused in one line that names it and says what is wrong."""
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def damaged(good: bytes, data: st.DataObject, head: int | None = None) -> bytes:
    """Cut off somewhere, or with up to three other bytes; head: these are among so many first ones."""
    made = bytearray(good)
    if data.draw(st.booleans(), "cut"):
        del made[data.draw(st.integers(0, len(made) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if made:
            made[data.draw(st.integers(0, len(made[:head]) - 1))] = data.draw(st.integers(0, 255))
    return bytes(made)
