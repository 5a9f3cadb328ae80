"""A whole model with a sentencepiece tokenizer: the space before a word is there in every way to ask for a reply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.models.conftest import write_gguf
from tests.models.kinds import PIECES, SPM_KEYS
from tinyllm.llm import LLM, load
from tinyllm.openai.replies import make_reply
from tinyllm.openai.requests import parse_body, prepare_completion
from tinyllm.openai.schema import CompletionRequest

WORD = PIECES.index("▁ab")
FORCED = {"logit_bias": {WORD: 100}, "max_tokens": 2}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    table = np.random.default_rng(1).standard_normal((len(PIECES), 64)).astype(np.float32)
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    return load(write_gguf(path, keys=SPM_KEYS, tensors={"token_embd.weight": table}), "numpy")


def completion(llm: LLM, **fields: Any) -> tuple[dict[str, Any], str]:
    """The choice of a completion of `he`, and the text of its chunks."""
    body = {"model": "m", "prompt": "he", "max_tokens": 2, "logit_bias": {str(WORD): 100}, **fields}
    prepared = prepare_completion(llm, parse_body(CompletionRequest, body))
    reply, text = make_reply(prepared, "m", "f", llm.tokenizer), ""
    engine = llm.engine_for_one()
    engine.add("a", prepared.sequences)
    while engine.has_work:
        for event in engine.step():
            assert event.piece is not None
            text += "".join(chunk["choices"][0]["text"] for chunk in reply.push(0, event.piece, 0))
    return reply.body()["choices"][0], text


def test_a_reply_keeps_its_first_space(llm: LLM) -> None:
    assert llm.generate("he", raw=True, **FORCED).text == " ab ab"
    assert [piece.text for piece in llm.stream("he", raw=True, **FORCED)] == [" ab", " ab"]
    stopped = llm.generate("he", raw=True, stop=" ab", **FORCED)
    assert (stopped.text, stopped.finish_reason, stopped.token_ids) == ("", "stop", [WORD])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, " ab ab"),
        ({"echo": True}, "he ab ab"),
        ({"echo": True, "prompt": [1, PIECES.index("▁a"), PIECES.index("he")]}, "ahe ab ab"),
        ({"stop": " ab"}, ""),
        ({"logprobs": 1}, " ab ab"),
    ],
)
def test_completions_keep_the_first_space_whole_and_streamed(llm: LLM, fields: dict[str, Any], text: str) -> None:
    choice, streamed = completion(llm, **fields)
    assert choice["text"] == streamed == text
    if "logprobs" in fields:
        assert (choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]) == ([" ab", " ab"], [0, 3])
