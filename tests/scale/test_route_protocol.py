"""What a server answers, its router answers: tests of the server's addresses, asked of a router before two of them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.scale.routers import routing
from tests.server.fakes import serving
from tests.server.test_api import (
    CHAT,
    test_a_stop_string_ends_a_reply,
    test_a_stream_says_what_the_whole_reply_says,
    test_choices_have_seeds_of_their_own,
    test_completions_stream_what_they_say,
    test_prompts_of_a_list_get_what_each_gets_alone,
)

__all__ = [
    "test_a_stop_string_ends_a_reply",
    "test_a_stream_says_what_the_whole_reply_says",
    "test_choices_have_seeds_of_their_own",
    "test_completions_stream_what_they_say",
    "test_prompts_of_a_list_get_what_each_gets_alone",
]


@pytest.fixture(scope="module")
def routed() -> Iterator[tuple[str, str]]:
    """The addresses of a router and of one of its servers."""
    with serving() as first, serving() as second, routing([first.url, second.url]) as live:
        yield live.url, first.url
        assert first.settled() and second.settled(), "pages are held though nothing runs"


@pytest.fixture
def http(routed: tuple[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=routed[0], timeout=20) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models/fake", None),
        ("GET", "/v1/models/other%20one", None),
        ("POST", "/tokenize", {"prompt": "hello"}),
        ("POST", "/v1/chat/completions", CHAT | {"model": "other"}),
        ("POST", "/v1/chat/completions", CHAT | {"temperature": -1}),
        ("POST", "/v1/chat/completions", {"messages": 7}),
        ("POST", "/v1/completions", {"model": "fake", "prompt": {"no": "prompt"}}),
        ("POST", "/v1/completions", []),
        ("DELETE", "/v1/models", None),
    ],
)
def test_answers_and_errors_are_the_servers_own(routed: tuple[str, str], method: str, path: str, body: object) -> None:
    """Status, body and type, byte for byte."""
    answers = [httpx.request(method, url + path, json=body, timeout=20) for url in routed]
    through, direct = ((a.status_code, a.content.replace(b" ", b""), a.headers["content-type"]) for a in answers)
    assert through == direct if b"created" not in direct[1] else through[0] == direct[0] == 200
    assert answers[0].headers.get_list("x-request-id") and len(answers[0].headers.get_list("date")) == 1


def test_what_is_no_json_is_the_replicas_to_refuse(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", content=b"{no", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]


def test_one_id_on_the_whole_way(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"x-request-id": "mine-7"})
    assert answer.headers.get_list("x-request-id") == ["mine-7"]


def test_what_the_router_answers_itself(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"} and http.get("/ready").status_code == 200
    status = http.get("/status").json()
    assert [replica["healthy"] for replica in status["replicas"]] == [True, True]
    text = http.get("/metrics").text
    for name in ("requests", "errors", "retries", "prefix_hits"):
        assert text.count(f"tinyllm_route_{name}_total{{replica=") == 2, name
    assert http.get("/nowhere").json()["error"]["message"] == "/nowhere: no such address"
    assert http.post("/health").status_code == 404
