"""Statistics against numbers worked out by hand, and the plot."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tinyllm.bench.serve import Run
from tinyllm.bench.serve_client import Outcome, Target
from tinyllm.bench.serve_plan import Load
from tinyllm.bench.serve_plot import draw
from tinyllm.bench.serve_result import Spread, document, lines, rows, spread, summarise
from tinyllm.errors import TinyllmError

GOOD = Outcome(
    0, 0.0, 1.0, 3.0, [1.5, 1.75, 2.25], prompt_tokens=10, completion_tokens=6, cached_tokens=4, finish_reason="stop"
)
CHUNKS = Outcome(1, 1.0, 1.25, 5.0, [2.25, 3.25, 4.25])
SINGLE = Outcome(2, 2.0, 2.0, 2.5, [2.5], completion_tokens=1)
BAD = Outcome(3, 3.0, 3.0, 9.0, [4.0], error="stream", message="broke off")
REFUSED = Outcome(4, 4.0, 4.0, 4.5, error="429", message="full")
ALL = (GOOD, CHUNKS, SINGLE, BAD, REFUSED)
RUN = Run(Target("http://user:secret@host/v1", "m"), ALL, ("a note",))


def test_percentiles() -> None:
    """Of 1 to 11: the median is the sixth, the 90th the tenth, the 99th nine tenths of the way from the tenth to the
    eleventh."""
    assert spread([11.0, *range(1, 11), None]) == Spread(6.0, 10.0, pytest.approx(10.9), 6.0, 11.0)
    assert spread([2.0]) == Spread(2.0, 2.0, 2.0, 2.0, 2.0)
    assert spread([None]) is None and spread([]) is None


def test_a_summary_by_hand() -> None:
    """First tokens after 0.5, 1 and 0.5 s; 0.75 s for 5 tokens and 2 s for 2; failed requests count in errors and the
    duration alone."""
    found = summarise(ALL)
    assert found.first_token == Spread(0.5, pytest.approx(0.9), pytest.approx(0.99), pytest.approx(2 / 3), 1.0)
    assert found.token_seconds is not None and found.token_seconds.mean == pytest.approx((0.15 + 1.0) / 2)
    assert found.gap is not None and found.gap.mean == pytest.approx((0.25 + 0.5 + 1 + 1) / 4) and found.gap.max == 1.0
    assert found.end_to_end is not None and (found.end_to_end.p50, found.end_to_end.max) == (2.0, 3.75)
    assert found.lag is not None and found.lag.max == 1.0
    assert found.seconds == 8.0 and found.completion_tokens == 6 + 3 + 1
    assert (found.requests_per_second, found.tokens_per_second) == (3 / 8, 10 / 8)
    assert (found.tokens_by, found.prompt_tokens, found.cached_tokens) == ("usage and chunks", 10, 4)
    assert (found.errors, found.messages) == ({"429": 1, "stream": 1}, {"429": "full", "stream": "broke off"})


def test_nothing_succeeded() -> None:
    found = summarise([BAD, REFUSED])
    assert (found.succeeded, found.requests_per_second, found.first_token, found.end_to_end) == (0, 0.0, None, None)
    assert all(cells[1:] == ["-"] * 5 for cells in rows(found)) and lines(found)[0].startswith("0 of 2 requests")


def test_the_document_is_json_without_secrets() -> None:
    """Versioned; a row for each request."""
    load = Load(requests=5, rate=1.0)
    found = json.loads(json.dumps(document(RUN, load, summarise(ALL))))
    assert (found["format"], found["version"], found["notes"]) == ("tinyllm bench serve", 1, ["a note"])
    assert found["load"]["rate"] == 1.0 and found["load"]["seed"] == 0 and "secret" not in json.dumps(found)
    assert [r["error"] for r in found["requests"]] == [None, None, None, "stream", "429"]
    assert found["requests"][0]["first_token"] == 0.5 and found["requests"][1]["chunks"] == 3
    assert (
        found["summary"]["first_token"].keys() == {"p50", "p90", "p99", "mean", "max"}
        and found["target"]["url"] == "http://host/v1"
    )


def test_tables_are_in_milliseconds() -> None:
    found = {cells[0]: cells[1:] for cells in rows(summarise(ALL))}
    assert found["time to first token"] == ["500.0", "900.0", "990.0", "666.7", "1000.0"]
    text = lines(summarise(ALL))
    assert "1.25" not in text[0] and "1.2 tok/s" in text[0] and "usage and chunks" in text[0]
    assert "error 429: 1 times: full" in text and any("late" in line for line in text)


def test_the_plot_shows_the_percentiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    draw(RUN, summarise(ALL), tmp_path / "load.svg")
    texts = [
        "".join(n.itertext()).strip()
        for n in ElementTree.parse(tmp_path / "load.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    for expected in (
        "time to first token",
        "time per output token",
        "end to end",
        "p50 500.0",
        "p90 900.0",
        "p99 990.0",
        "tok/s",
    ):
        assert expected in texts
    assert "m: 0.38 requests/s, 1.2 tok/s, 2 failed" in texts


def test_a_plot_that_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(TinyllmError, match="nothing to draw"):
        draw(Run(RUN.target, (BAD,)), summarise([BAD]), tmp_path / "load.png")
    assert not list(tmp_path.iterdir())
