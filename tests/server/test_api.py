"""The addresses, with a fake model over a real socket."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.openai.fakes import CONTEXT
from tests.server.bodies import CHAT, TEXT, TOOL, chunks, error
from tests.server.fakes import Live


@pytest.mark.parametrize(
    "extra", [{}, {"n": 3, "temperature": 1.0, "seed": 5}, {"stop": "e"}, {"logprobs": True, "top_logprobs": 2}]
)
def test_a_stream_says_what_the_whole_reply_says(http: httpx.Client, extra: dict[str, Any]) -> None:
    whole = http.post("/v1/chat/completions", json=CHAT | extra).json()
    told = chunks(
        http.post(
            "/v1/chat/completions", json=CHAT | extra | {"stream": True, "stream_options": {"include_usage": True}}
        )
    )
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in told if c["choices"] and c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["delta"].get("content") or "" for c in mine) == choice["message"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == [choice["finish_reason"]]
        assert mine[0]["delta"]["role"] == "assistant" and sum("role" in c["delta"] for c in mine) == 1
        if choice["logprobs"] is not None:
            assert [t for c in mine if c["logprobs"] for t in c["logprobs"]["content"]] == choice["logprobs"]["content"]
    assert told[-1]["choices"] == [] and all(c["usage"] is None for c in told[:-1])
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert told[-1]["usage"][name] == whole["usage"][name]
    assert len({c["id"] for c in told}) == 1


@pytest.mark.parametrize(
    "extra", [{}, {"echo": True}, {"logprobs": 2}, {"prompt": ["ab", "cde"], "n": 2}, {"prompt": [[97], [98, 99]]}]
)
def test_completions_stream_what_they_say(http: httpx.Client, extra: dict[str, Any]) -> None:
    whole = http.post("/v1/completions", json=TEXT | extra).json()
    told = chunks(http.post("/v1/completions", json=TEXT | extra | {"stream": True}))
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in told if c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        if choice["logprobs"]:
            assert [t for c in mine for t in c["logprobs"]["tokens"]] == choice["logprobs"]["tokens"]
    assert all("usage" not in c for c in told)


def test_prompts_of_a_list_get_what_each_gets_alone(http: httpx.Client) -> None:
    together = http.post("/v1/completions", json=TEXT | {"prompt": ["ab", "cd"]}).json()
    alone = [http.post("/v1/completions", json=TEXT | {"prompt": p}).json()["choices"][0]["text"] for p in ("ab", "cd")]
    assert [c["text"] for c in together["choices"]] == alone
    assert together["usage"]["prompt_tokens"] == 4 and together["usage"]["completion_tokens"] == 24


def test_choices_have_seeds_of_their_own(http: httpx.Client) -> None:
    body = CHAT | {"temperature": 1.0, "seed": 7, "n": 3}
    first, again = (http.post("/v1/chat/completions", json=body).json()["choices"] for _ in range(2))
    texts = [c["message"]["content"] for c in first]
    assert len(set(texts)) == 3 and texts == [c["message"]["content"] for c in again]
    third = http.post("/v1/chat/completions", json=CHAT | {"temperature": 1.0, "seed": 9}).json()["choices"][0]
    assert third["message"]["content"] == texts[2]


def test_logprobs_of_a_completion(http: httpx.Client) -> None:
    choice = http.post("/v1/completions", json=TEXT | {"logprobs": 3}).json()["choices"][0]
    columns = choice["logprobs"]
    assert "".join(columns["tokens"]) == choice["text"] and columns["text_offset"] == list(range(12))
    for token, logprob, top in zip(columns["tokens"], columns["token_logprobs"], columns["top_logprobs"], strict=True):
        assert len(top) == 3 and top[token] == logprob == max(top.values()) < 0


def test_a_stop_string_ends_a_reply(http: httpx.Client) -> None:
    text = http.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"]
    stopped = http.post("/v1/chat/completions", json=CHAT | {"stop": [text[4:6]]}).json()["choices"][0]
    assert stopped["message"]["content"] == text[: text.index(text[4:6])] and stopped["finish_reason"] == "stop"


def test_settings_reach_the_sampler(http: httpx.Client) -> None:
    """Each changes the reply in the way that it names."""

    def say(**extra: Any) -> str:
        return str(http.post("/v1/completions", json=TEXT | extra).json()["choices"][0]["text"])

    plain = say()
    assert set(say(logit_bias={"42": 100})) == {"*"}
    assert (
        say(top_k=1, temperature=2.0) == plain
        and say(min_p=1.0, temperature=2.0) == plain
        and say(top_p=1e-9, temperature=2.0) == plain
    )
    assert say(temperature=2.0, seed=1) != plain
    letters = say(max_tokens=60, frequency_penalty=2, presence_penalty=2)
    assert max(letters.count(c) for c in letters) < max(say(max_tokens=60).count(c) for c in say(max_tokens=60))
    assert say(stop_token_ids=[ord(plain[3])]) == plain[: plain.index(plain[3])]
    assert len(say(stop=plain[1], min_tokens=8)) >= 7


def test_a_second_request_finds_its_prompt_in_the_cache(http: httpx.Client) -> None:
    body = CHAT | {"messages": [{"role": "user", "content": "a prompt that is long enough " * 3}]}
    first, second = (http.post("/v1/chat/completions", json=body).json() for _ in range(2))
    tokens = second["usage"]["prompt_tokens"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] < 20 <= tokens - 8
    assert tokens - 8 <= second["usage"]["prompt_tokens_details"]["cached_tokens"] < tokens
    assert first["choices"] == second["choices"]


def test_parts_and_roles_of_messages(http: httpx.Client) -> None:
    def tokens(messages: list[dict[str, Any]]) -> str:
        ids = http.post("/tokenize", json={"messages": messages}).json()["tokens"]
        return str(http.post("/detokenize", json={"tokens": ids}).json()["prompt"])

    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    said = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    assert tokens(said) == "<system>be kind;<user>a\nb;<assistant>"


def test_values_that_ask_for_nothing_are_taken(http: httpx.Client) -> None:
    idle = {
        "store": True,
        "service_tier": "flex",
        "metadata": {"run": "7"},
        "prompt_cache_key": "k",
        "modalities": ["text"],
        "audio": None,
        "tools": None,
        "logit_bias": None,
        "stop": None,
        "user": "me",
        "response_format": {"type": "text"},
        "parallel_tool_calls": None,
        "verbosity": None,
        "a_field_of_another_server": None,
        "length_penalty": 1,
        "skip_special_tokens": True,
        "include_stop_str_in_output": False,
        "top_logprobs": 0,
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "none",
        "top_k": -1,
    }
    plain, told = (http.post("/v1/chat/completions", json=body).json() for body in (CHAT, CHAT | idle))
    assert told["choices"] == plain["choices"]


def test_an_unknown_model(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", json=CHAT | {"model": "gpt-9"})
    assert response.status_code == 404 and error(response)["code"] == "model_not_found"
    assert http.get("/v1/models/gpt-9").status_code == 404
    assert http.get("/v1/models/fake").json()["id"] == "fake" == http.get("/v1/models").json()["data"][0]["id"]


def test_other_addresses_and_methods(http: httpx.Client) -> None:
    missing, method = http.get("/v2"), http.get("/v1/completions")
    assert (missing.status_code, method.status_code) == (404, 405) and method.headers["allow"] == "POST"
    assert error(missing)["message"] == "/v2: no such address" and error(method)["type"] == "invalid_request_error"


def test_tokens_and_back(http: httpx.Client) -> None:
    found = http.post("/tokenize", json={"prompt": "abc", "model": "fake"}).json()
    assert found == {"tokens": [97, 98, 99], "count": 3, "max_model_len": CONTEXT}
    assert http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": "abc"}
    for body in (
        {},
        {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
        {"prompt": "a", "tools": [TOOL]},
        {"prompt": "a", "continue_final_message": True},
    ):
        assert http.post("/tokenize", json=body).status_code == 400
    assert http.post("/detokenize", json={"tokens": [128]}).status_code == 400
    assert http.post("/tokenize", json={"prompt": "a", "model": "x"}).status_code == 404


def test_request_ids(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    bad = http.get("/health", headers={"x-request-id": "no good\tid"}).headers["x-request-id"]
    assert bad.startswith("req_") and bad != http.get("/health").headers["x-request-id"]


def test_metrics_tell_what_was_done(http: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = (
        "tinyllm_generated_tokens_total",
        "tinyllm_time_to_first_token_seconds_count",
        'tinyllm_requests_total{path="/v1/chat/completions",status="200"}',
        "tinyllm_time_per_token_seconds_count",
    )
    before = [value(name) for name in names]
    http.post("/v1/chat/completions", json=CHAT)
    assert [value(name) - b for name, b in zip(names, before, strict=True)] == [12, 1, 1, 1]
    assert (
        value("tinyllm_cache_pages_held") == 0 and value("tinyllm_ready") == 1 and value("tinyllm_cache_pages ") == 2000
    )


def test_status_for_the_page(http: httpx.Client, live: Live) -> None:
    http.post("/v1/chat/completions", json=CHAT)
    found = http.get("/status").json()
    assert (
        found["model"] == "fake"
        and found["backend"] == "fake:cpu"
        and found["ready"] is True
        and found["pages"] == 2000
    )
    assert found["kernels"] == {"fake/linear:fused": 2, "fake/rms_norm:reference": 1} and found["tokens_per_second"] > 0
    assert {"running", "waiting", "pages_held", "reused_tokens"} <= set(found)
    assert found["cache_bytes"] == 8 * 4 * 2000 and found["state_bytes"] == 0


def test_pages_and_docs_ask_nobody_else(http: httpx.Client) -> None:
    page, docs, schema = http.get("/"), http.get("/docs"), http.get("/openapi.json").json()
    assert page.status_code == docs.status_code == 200 and "text/html" in page.headers["content-type"]
    assert "//cdn" not in docs.text and "https://" not in docs.text
    assert http.get("/docs-assets/swagger-ui-bundle.js").status_code == 200
    assert {"/v1/chat/completions", "/v1/completions", "/tokenize", "/metrics"} <= set(schema["paths"])


def test_no_origin_is_let_in_unless_named(http: httpx.Client) -> None:
    assert "access-control-allow-origin" not in http.get("/health", headers={"origin": "https://a.example"}).headers
