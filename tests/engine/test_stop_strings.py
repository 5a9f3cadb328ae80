"""Stop strings in a stream: it must not matter how the text is cut into pieces."""

from __future__ import annotations

import time
from itertools import compress, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.engine.stop_strings import StopStrings

texts = st.text("ab", max_size=30)
stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple)


def run(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    """What is shown of a text that comes in pieces, and whether it was stopped."""
    finder, shown = StopStrings(stops), ""
    for piece in pieces:
        shown += finder.push(piece)
        if finder.found:
            return shown, True
    return shown + finder.finish(), False


def plainly(stops: tuple[str, ...], text: str) -> tuple[str, bool]:
    """The definition: read on until what was read ends in a stop string; the longest such is left out."""
    for end in range(1, len(text) + 1):
        matching = [s for s in stops if text[:end].endswith(s)]
        if matching:
            return text[: end - max(map(len, matching))], True
    return text, False


@settings(deadline=None)
@given(texts, stops, st.data())
def test_any_cut_gives_what_the_definition_says(text: str, stops: tuple[str, ...], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert run(stops, pieces) == plainly(stops, text)


@settings(deadline=None)
@given(texts, stops)
def test_character_by_character(text: str, stops: tuple[str, ...]) -> None:
    assert run(stops, list(text)) == plainly(stops, text)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab", max_size=3), st.booleans()), max_size=12), stops)
def test_what_is_not_shown_is_found_all_the_same(pieces: list[tuple[str, bool]], stops: tuple[str, ...]) -> None:
    finder, shown = StopStrings(stops), ""
    for piece in pieces:
        if not finder.found:
            shown += finder.push(*piece)
    shown += finder.finish()
    before, found = plainly(stops, "".join(text for text, _ in pieces))
    marks = [mark for text, mark in pieces for _ in text]
    assert (shown, finder.found) == ("".join(compress(before, marks)), found)


def test_nothing_is_held_back_longer_than_needed() -> None:
    finder = StopStrings(("END",))
    assert [finder.push(p) for p in ("one ", "EN", "x", "E")] == ["one ", "", "ENx", ""]
    assert finder.finish() == "E"


def test_long_stop_strings_cost_no_more_than_short_ones() -> None:
    """Neither to make nor for each piece of text, also where all of it may begin one."""
    start = time.monotonic()
    finder = StopStrings(("a" * 50_000 + "b", "c" * 50_000))
    shown = "".join(finder.push("a" * 10) for _ in range(2_000)) + finder.push("x")
    assert shown == "a" * 20_000 + "x" and not finder.found
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("stops", "pieces", "shown"),
    [
        (("abc", "b"), ["a", "bc"], "a"),
        (("abc", "c"), ["ab", "c"], ""),
        (("\n\n",), ["one\n", "two\n", "\nthree"], "one\ntwo"),
        (("é",), ["caf", "é!"], "caf"),
    ],
)
def test_examples(stops: tuple[str, ...], pieces: list[str], shown: str) -> None:
    assert run(stops, pieces) == (shown, True)
    assert run(stops, ["".join(pieces)]) == (shown, True)
