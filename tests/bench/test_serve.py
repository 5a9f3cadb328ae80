"""The client against a server with known delays: what it times, counts and forgives."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.bench.openai_server import Manners, serving
from tinyllm.bench.serve import Run, base_url, run
from tinyllm.bench.serve_client import Target
from tinyllm.bench.serve_plan import Load
from tinyllm.bench.serve_result import summarise
from tinyllm.errors import InvalidInputError, TinyllmError

ONE = Load(requests=1, concurrency=1, prompt_tokens=5, max_tokens=4)


def load(manners: Manners, asked: Load = ONE, endpoint: Any = "chat", timeout: float = 20.0, **options: Any) -> Run:
    """A run against a server of these manners."""
    with serving(manners) as url:
        return asyncio.run(run(Target(base_url(url), "m", endpoint), asked, timeout=timeout, **options))


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_known_delays_are_found(endpoint: str) -> None:
    """The first token never sooner than it comes; the role is no token, and a warm-up is not counted."""
    manners = Manners(first=0.06, gap=0.02, tokens=6)
    found = load(manners, Load(requests=3, concurrency=1, prompt_tokens=5), endpoint)
    assert len(manners.bodies) == 4 and [o.index for o in found.outcomes] == [0, 1, 2]
    for outcome in found.outcomes:
        assert outcome.error is None and outcome.finish_reason == "length" and len(outcome.times) == 6
        assert 0.06 <= (outcome.first_token or 0) < 2 and 0.005 <= (outcome.token_seconds or 0) < 1
        assert outcome.seconds >= 0.06 + 5 * 0.02 and outcome.times == sorted(outcome.times)
        assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.cached_tokens) == (10, 6, 6)


def test_what_is_sent() -> None:
    """The fields of an OpenAI request, on the path of the endpoint, with the key; `extra` joins them."""
    manners = Manners()
    with serving(manners) as url:
        target = Target(base_url(url), "", "completions", {"ignore_eos": True, "temperature": 1})
        asyncio.run(run(target, ONE, api_key="secret"))
    sent = manners.bodies[1]
    assert sent.pop("prompt").count(" ") == 4
    assert sent == {
        "path": "/v1/completions",
        "model": "first",
        "max_tokens": 4,
        "temperature": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    assert set(manners.keys) == {"Bearer secret"}


def test_tokens_of_chunks_that_hold_several() -> None:
    """By usage, where there is one: eight tokens in four chunks; the time per token is by tokens as well."""
    outcome = load(Manners(tokens=8, per_chunk=2, gap=0.035)).outcomes[0]
    assert outcome.tokens == 8 and len(outcome.times) == 4 and 0.005 <= (outcome.token_seconds or 0) < 0.03
    assert summarise([outcome]).tokens_by == "usage"


def test_a_server_without_usage() -> None:
    """Tokens are counted by chunks, and it is said so."""
    found = load(Manners(usage=False, tokens=5))
    summary = summarise(found.outcomes)
    assert (summary.tokens_by, summary.completion_tokens, summary.prompt_tokens, summary.cached_tokens) == (
        "chunks",
        5,
        None,
        None,
    )
    assert found.notes == ()


def test_a_server_that_refuses_to_be_asked_for_usage() -> None:
    """It is asked without, and that is noted."""
    manners = Manners(takes_stream_options=False, tokens=5)
    found = load(manners)
    assert summarise(found.outcomes).tokens_by == "chunks" and "stream_options" in found.notes[0]
    assert ["stream_options" in b for b in manners.bodies] == [True, False, False]


def test_errors_are_counted_by_kind() -> None:
    """By status, or by what went wrong; the others go on, and only they make the statistics."""
    faults: dict[int, int | str] = {1: 429, 2: 429, 3: 500, 4: "drop", 5: "broken", 6: "error", 7: "plain"}
    seen: list[str | None] = []
    found = load(
        Manners(faults=faults),
        Load(requests=10, concurrency=1, prompt_tokens=5),
        on_done=lambda o: seen.append(o.error),
    )
    summary = summarise(found.outcomes)
    assert summary.errors == {"429": 2, "500": 1, "connection": 1, "stream": 3}
    assert seen == ["429", "429", "500", "connection", "stream", "stream", "stream", None, None, None]
    assert (summary.requests, summary.succeeded, summary.completion_tokens) == (10, 3, 12)
    assert summary.messages["429"] == "too many requests"
    messages = [o.message for o in found.outcomes]
    assert messages[5] == "the kernel failed" and "application/json" in messages[6] and "ended before" in messages[4]


def test_a_stream_without_its_end_mark_is_whole_where_it_says_why_it_finished() -> None:
    assert load(Manners(done=False)).outcomes[0].error is None


def test_a_server_that_takes_too_long() -> None:
    """The request is given up, also where chunks keep coming."""
    manners = Manners(gap=0.1, tokens=60)
    start = time.perf_counter()
    with serving(Manners()) as good, serving(manners) as slow:
        quick = asyncio.run(run(Target(base_url(good), "m"), ONE, timeout=0.3))
        with pytest.raises(TinyllmError, match=r"warm-up request failed \(timeout\): not done within 0.3 s"):
            asyncio.run(run(Target(base_url(slow), "m"), ONE, timeout=0.3))
        assert quick.outcomes[0].error is None and time.perf_counter() - start < 3
        manners.gap = 0.0


def test_a_closed_loop_keeps_its_number() -> None:
    """As many at a time as asked for, and never more."""
    manners = Manners(first=0.05)
    found = load(manners, Load(requests=12, concurrency=4, prompt_tokens=5))
    assert manners.most == 4 and len(found.outcomes) == 12
    assert summarise(found.outcomes).lag is None


def test_an_open_loop_does_not_wait_for_replies() -> None:
    """Requests leave at their times, whatever is still running; nothing queues on our side."""
    manners = Manners(first=2.0)
    found = load(manners, Load(requests=30, rate=200.0, prompt_tokens=5, seed=1))
    assert manners.most > 15
    for outcome in found.outcomes:
        assert outcome.planned is not None and 0 <= outcome.started - outcome.planned < 1.5
    assert summarise(found.outcomes).lag is not None


@pytest.mark.parametrize(
    ("manners", "match"),
    [
        (
            Manners(models={"data": []}),
            "/v1/models: expected a list of models, got something else; name one with --model",
        ),
        (Manners(models=[]), "/v1/models: expected a list"),
        (Manners(faults={0: 401}), r"the warm-up request failed \(401\): too many requests"),
    ],
)
def test_a_server_that_is_none(manners: Manners, match: str) -> None:
    """Said before a load is put on it."""
    with serving(manners) as url, pytest.raises(TinyllmError, match=match):
        asyncio.run(run(Target(base_url(url), ""), ONE))
    with pytest.raises(TinyllmError, match="cannot be reached"):
        asyncio.run(run(Target(base_url(url), ""), ONE))
    with pytest.raises(TinyllmError, match="cannot be reached"):
        asyncio.run(run(Target(base_url(url), "m"), ONE))


def test_addresses() -> None:
    assert base_url("http://host:8000") == base_url("http://host:8000/v1/") == "http://host:8000/v1"
    assert base_url("https://host/openai/v1") == "https://host/openai/v1"
    for wrong in ("host:8000", "ftp://host", "http://", "http://host:x", "http://[", ""):
        with pytest.raises(InvalidInputError, match="--url: expected an address such as"):
            base_url(wrong)
