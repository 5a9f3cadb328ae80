"""Bodies that would take long to look at: the server answers others meanwhile, and refuses them with a line."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.server.bodies import CHAT, TEXT, error
from tests.server.fakes import Live
from tests.server.test_robustness import until
from tinyllm.engine.sequence import Piece
from tinyllm.openai.replies import Reply

LONGEST_WAIT = 0.5
"""Ten times what it takes at most where nothing else runs on the machine."""


@contextmanager
def asking_health(live: Live) -> Iterator[list[float]]:
    """The seconds that each answer of `/health` takes while something else is done."""
    seconds: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=live.url, timeout=60) as client:
            while not done.wait(0.002) or not seconds:
                start = time.monotonic()
                client.get("/health").raise_for_status()
                seconds.append(time.monotonic() - start)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seconds
    finally:
        done.set()
        thread.join()


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


BIASES = {str(token): 1 for token in range(100_000)}
HOSTILE = {
    "messages": ("/v1/chat/completions", body(model="fake", messages=[1] * 1_000_000), "250000 values"),
    "messages within": ("/v1/chat/completions", body(model="fake", messages=[1] * 200_000), "messages.0: expected"),
    "floats": ("/v1/completions", body(model="fake", prompt=[1.5] * 100_000), "prompt.0: expected"),
    "ids": ("/v1/completions", body(model="fake", prompt=[1] * 200_000), "prompt: has 200000 tokens"),
    "prompts": ("/v1/completions", body(model="fake", prompt=["a"] * 100_000), "prompt: expected"),
    "biases": ("/v1/completions", body(**TEXT, logit_bias=BIASES), "logit_bias: expected at most 4096"),
    "wrong biases": ("/v1/completions", body(**TEXT, logit_bias=BIASES | {"x": "y"}), "logit_bias: expected"),
    "stop": ("/v1/completions", body(**TEXT, stop=["x" * 1_000_000]), "stop.0: expected"),
    "stop tokens": ("/v1/completions", body(**TEXT, stop_token_ids=[1] * 100_000), "stop_token_ids: expected"),
    "fields": ("/v1/completions", body(**TEXT, **{f"x{i}": 1 for i in range(100_000)}), "at most 256 fields"),
    "depth": ("/v1/completions", b'{"a":' * 700_000, "100 deep"),
    "text": ("/tokenize", body(prompt="x" * 4_000_000), "prompt: has 4000000 characters"),
    "chat": (
        "/v1/chat/completions",
        body(model="fake", messages=[{"role": "user", "content": "x" * 4_000_000}]),
        "characters, of which at most 48000 fit",
    ),
    "arguments": (
        "/v1/chat/completions",
        body(
            model="fake",
            messages=[
                {"role": "user", "content": "a"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "a", "function": {"name": "f", "arguments": '{"a":' * 900 + "1" + "}" * 900}}
                    ],
                },
            ],
        ),
        "messages.1: tool_calls.0.function.arguments: expected lists and objects at most 100 deep",
    ),
    "log probabilities": (
        "/v1/completions",
        body(model="fake", prompt="a" * 2_900, prompt_logprobs=20, n=16),
        "prompt_logprobs: expected at most 500000",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_holds_up_nobody(live: Live, http: httpx.Client, name: str) -> None:
    path, content, message = HOSTILE[name]
    start = time.monotonic()
    with asking_health(live) as seconds:
        response = http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400 and message in error(response)["message"], response.text[:300]
    assert len(response.text) < 500 and time.monotonic() - start < 5
    assert max(seconds) < LONGEST_WAIT
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert live.settled()


def test_the_longest_stop_strings_that_may_be(live: Live, http: httpx.Client) -> None:
    stop = ["a" * 1023 + chr(33 + number) for number in range(64)]
    with asking_health(live) as seconds:
        response = http.post("/v1/completions", json=TEXT | {"stop": stop, "n": 16, "max_tokens": 50})
    assert response.status_code == 200 and max(seconds) < LONGEST_WAIT


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_probabilities_of_a_prompt_are_told_beside_the_event_loop(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """As those of a long one take some tenths of a second."""
    threads: set[str] = set()
    push = Reply.push

    def noted(self: Reply, index: int, piece: Piece, reused: int) -> list[dict[str, Any]]:
        if piece.prompt_logprobs:
            threads.add(threading.current_thread().name)
        return push(self, index, piece, reused)

    monkeypatch.setattr(Reply, "push", noted)
    asked = {"echo": True, "logprobs": 3} if stream else {"prompt_logprobs": 3}
    response = http.post("/v1/completions", json=TEXT | asked | {"max_tokens": 4, "stream": stream})
    assert response.status_code == 200 and "logprob" in response.text
    assert threads and all(name.startswith("asyncio_") for name in threads), "that of asyncio.to_thread"


def test_a_body_of_many_small_chunks(live: Live, http: httpx.Client) -> None:
    chunks = (b" " for _ in range(30_000))
    with asking_health(live) as seconds:
        response = http.post("/v1/completions", content=chunks, headers={"content-type": "application/json"})
    assert response.status_code == 400 and max(seconds) < LONGEST_WAIT


def test_what_a_client_says_of_itself_is_cut_in_the_log(
    live: Live, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="tinyllm.server"):
        assert http.post("/v1/completions", json=TEXT | {"user": "u" * 100_000}).status_code == 200
        assert until(lambda: any("user" in fields for fields in logged(caplog)))
    assert [fields["user"] for fields in logged(caplog) if "user" in fields] == ["u" * 200]


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request"]
