"""JSON of strangers: it is read as json reads it, or refused before anything is made of it, in time linear in it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.errors import InvalidInputError
from tinyllm.models.text.json_text import MOST_CONTAINERS, MOST_DEPTH, MOST_VALUES, read_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
MARKS = "[" * 200 + "{" * 200 + ",]" * 300_000 + '\\"'
"""A text that would be too much if its marks were counted."""


@settings(deadline=None)
@given(values, st.booleans())
def test_what_is_within_the_limits_is_read(value: Any, ascii_only: bool) -> None:
    """Also where a text beside it makes it necessary to count."""
    held = [MARKS, value]
    assert read_json(json.dumps(held, ensure_ascii=ascii_only).encode()) == held


@pytest.mark.parametrize(
    ("most", "one_more", "message"),
    [
        (b"[" * MOST_DEPTH + b"]" * MOST_DEPTH, b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), "100 deep"),
        (b"[1" + b",1" * (MOST_VALUES - 2) + b"]", b"[1" + b",1" * (MOST_VALUES - 1) + b"]", "250000 values"),
        (
            b"[[]" + b",[]" * (MOST_CONTAINERS - 2) + b"]",
            b"[[]" + b",[]" * (MOST_CONTAINERS - 1) + b"]",
            "50000 lists and objects",
        ),
    ],
)
def test_limits_are_met_exactly(most: bytes, one_more: bytes, message: str) -> None:
    assert read_json(most) == json.loads(most)
    with pytest.raises(InvalidInputError, match=f"^body: expected .*{message}, got more$"):
        read_json(one_more)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 4_000_000,
        b'{"a":' * 800_000,
        b"[" * 101 + b'"' * 4_000_001,
        b"[]" * 60 + b'"' + b"\\" * 4_000_001,
        b"[]" * 60 + b'"' + b'\\"' * 2_000_000,
        b"[]," * 1_300_000,
        b'"",' * 1_300_000,
        b"]" * 2_000_000 + b"[" * 2_000_000,
        b"\xff" * 4_000_000,
        b"9" * 4_000_000,
        b"",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_is_refused_at_once(data: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(InvalidInputError, match=r"^body: expected ") as error:
        read_json(data)
    assert time.monotonic() - start < 5 and len(str(error.value)) < 200
