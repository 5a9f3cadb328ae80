"""Progress and speed, without a command around them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tinyllm.cli import meter
from tinyllm.cli.output import download_bar, loading_line, print_json
from tinyllm.engine.sequence import Piece


def test_progress_is_for_terminals(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def show() -> str:
        with loading_line("loading x") as report:
            report(1, 2)
        with download_bar("fetching x") as report_bytes:
            report_bytes(1, 2)
        out, err = capfd.readouterr()
        assert out == ""
        return err

    assert show() == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = show()
    assert "loading x 1/2" in shown and "fetching x" in shown


def test_numbers_that_json_has_not_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(name)

    print_json({"a": float("nan"), "b": [1.5, {"c": (float("inf"), 2, "x", None, True)}]})
    told = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert told == {"a": None, "b": [1.5, {"c": [None, 2, "x", None, True]}]}


def test_speeds_are_tokens_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: clock[0])

    def pieces() -> Iterator[Piece]:
        for seconds in (2.0, 0.5, 0.5, 0.5, 0.5):
            clock[0] += seconds
            yield Piece("a", (7,))
        clock[0] += 0.5
        yield Piece("", (), finish_reason="stop")

    watched = meter.Meter(prompt_tokens=100, reused=20)
    assert len(list(watched.watch(pieces()))) == 6
    assert watched.prefill_rate == 80 / 2
    assert watched.decode_rate == 5 / 2.5
    assert (
        watched.line("x:cpu") == "prompt 100 tokens (20 of them cached), 40.0 tok/s | reply 5 tokens, 2.0 tok/s | x:cpu"
    )
    assert (watched.finish_reason, len(watched.token_ids)) == ("stop", 5)
