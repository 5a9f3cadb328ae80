"""Log probabilities in replies: of the tokens that were written, of those before them, and of what might have been."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.engine.fakes import STOP
from tests.openai.fakes import Program, make_llm
from tests.openai.test_requests import CHAT, TEXT
from tinyllm.engine.private_engine import run
from tinyllm.openai.replies import Reply, make_reply
from tinyllm.openai.requests import parse_body, prepare_chat, prepare_completion
from tinyllm.openai.schema import ChatRequest, CompletionRequest


def answer(body: dict[str, Any], program: Any = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the whole reply, the chunks of a stream) to a request."""
    llm = make_llm(program)
    chat = "messages" in body
    prepared: Any = (
        prepare_chat(llm, parse_body(ChatRequest, body))
        if chat
        else prepare_completion(llm, parse_body(CompletionRequest, body))
    )
    reply: Reply = make_reply(prepared, "fake", "fp", llm.tokenizer)
    chunks = [c for n, piece in run(llm.engine(400), prepared.sequences) for c in reply.push(n, piece, 0)]
    return reply.body(), chunks


def log_probability(before: str, token: str) -> float:
    row = Program().logits(np.array([ord(c) for c in before])).astype(np.float64)
    return float(row[ord(token)] - row.max() - np.log(np.exp(row - row.max()).sum()))


@pytest.mark.parametrize("wanted", [0, 1, 3])
@pytest.mark.parametrize("temperature", [0, 30.0])
@pytest.mark.parametrize("echo", [False, True])
def test_the_token_itself_is_among_the_alternatives(wanted: int, temperature: float, echo: bool) -> None:
    """However unlikely it was; there are none, and no empty ones, where none are asked for."""
    settings = {"logprobs": wanted, "temperature": temperature, "seed": 1, "max_tokens": 20, "echo": echo}
    body, _ = answer(TEXT | settings | {"ignore_eos": True})
    columns = body["choices"][0]["logprobs"]
    assert (columns["top_logprobs"] is None) == (wanted == 0)
    unlikely = 0
    for token, logprob, top in zip(
        columns["tokens"], columns["token_logprobs"], columns["top_logprobs"] or [], strict=False
    ):
        if logprob is None:
            assert top is None
            continue
        assert top[token] == logprob and wanted <= len(top) <= wanted + 1
        unlikely += len(top) > wanted
    assert bool(unlikely) == (wanted > 0 and (temperature > 0 or echo))


@pytest.mark.parametrize("body", [{}, {"n": 2}, {"prompt": ["ab", "once upon"]}, {"prompt": [[97, 98], [99]]}])
@pytest.mark.parametrize("limit", [0, 1, 5])
def test_an_echo_has_the_columns_of_its_prompt(body: dict[str, Any], limit: int) -> None:
    """Those of the model's own logits, in a stream as in the whole; tokens spell the text, at their offsets."""
    whole, chunks = answer(TEXT | {"echo": True, "logprobs": 1, "max_tokens": limit, "temperature": 0} | body)
    prompts = [
        p if isinstance(p, str) else "".join(map(chr, p))
        for p in ([body.get("prompt", "once")] if isinstance(body.get("prompt", ""), str) else body["prompt"])
    ]
    assert len(whole["choices"]) == len(prompts) * body.get("n", 1)
    for choice in whole["choices"]:
        text, columns = choice["text"], choice["logprobs"]
        prompt = prompts[choice["index"] // body.get("n", 1)]
        assert text.startswith(prompt) and len(text) == len(prompt) + limit
        assert "".join(columns["tokens"]) == text and columns["text_offset"] == list(range(len(text)))
        assert columns["token_logprobs"][0] is None and columns["top_logprobs"][0] is None
        wanted = [log_probability(text[:place], text[place]) for place in range(1, len(text))]
        assert columns["token_logprobs"][1:] == pytest.approx(wanted, abs=1e-5)
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == text
        for name, values in columns.items():
            assert [value for c in mine for value in c["logprobs"][name]] == values
    assert whole["usage"]["completion_tokens"] == limit * len(whole["choices"])


def test_the_end_of_a_reply_is_among_its_tokens() -> None:
    """As many rows as tokens were chosen, which is what clients count by that ask for one token."""
    body, _ = answer(
        TEXT | {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}, Program(says={"once": ""})
    )
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"], body["usage"]["completion_tokens"]) == ("once", "stop", 0)
    columns = choice["logprobs"]
    assert columns["tokens"] == [*"once", chr(STOP)] and columns["text_offset"] == [0, 1, 2, 3, 4]
    assert columns["token_logprobs"][-1] == pytest.approx(0, abs=1e-5)


def test_a_chat_leaves_the_end_out() -> None:
    body, _ = answer(CHAT | {"logprobs": True, "temperature": 0}, Program(says={"<assistant>": "hm"}))
    assert [entry["token"] for entry in body["choices"][0]["logprobs"]["content"]] == ["h", "m"]


@pytest.mark.parametrize("request_body", [TEXT, CHAT])
def test_the_prompt_is_told_by_its_token_ids(request_body: dict[str, Any]) -> None:
    """Each with its rank, whether or not the reply has log probabilities of its own."""
    body, _ = answer(request_body | {"prompt_logprobs": 2, "max_tokens": 0})
    told = body["prompt_logprobs"] if "messages" in request_body else body["choices"][0]["prompt_logprobs"]
    prompt = "<user>hello;<assistant>" if "messages" in request_body else "once"
    assert told[0] is None and len(told) == len(prompt)
    for place, entry in enumerate(told[1:], 1):
        mine = entry[str(ord(prompt[place]))]
        assert mine["logprob"] == pytest.approx(log_probability(prompt[:place], prompt[place]), abs=1e-5)
        assert mine["decoded_token"] == prompt[place] and sorted(t["rank"] for t in entry.values())[:2] == [1, 2]
        assert len(entry) == 2 + (mine["rank"] > 2)
    assert body["choices"][0]["finish_reason"] == "length" and body["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("wanted", [0, 2])
def test_replies_are_of_the_types_of_the_openai_package(wanted: int) -> None:
    types = pytest.importorskip("openai.types")
    body, _ = answer(TEXT | {"logprobs": wanted, "max_tokens": 2})
    tops = types.Completion.model_validate(body).choices[0].logprobs.top_logprobs
    assert (tops is None) == (wanted == 0)
    assert all(math.isfinite(v) for v in body["choices"][0]["logprobs"]["token_logprobs"])
