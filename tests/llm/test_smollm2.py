"""The real model: the same tokens from every backend, and from transformers on the same file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tinyllm.llm import LLM, load

CHAT = {
    "question": "Why is the sky blue?",
    "code": "Write a Python function that reverses a list.",
    "french": "Traduis en anglais : « Où est la bibliothèque ? »",
    "emoji": "What does 🙂 mean? Answer in 日本語 if you can.",
    "long": "Summarise this text: " + "The river runs through the valley and turns at the old mill. " * 12,
}
RAW = {
    "story": "Once upon a time, in a small village by the sea,",
    "code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "numbers": "1, 2, 3, 5, 8, 13,",
}
PROMPTS = [pytest.param(t, False, id=f"chat-{n}") for n, t in CHAT.items()] + [
    pytest.param(t, True, id=f"raw-{n}") for n, t in RAW.items()
]
LENGTHS = {"numpy": 16, "torch": 16}
"""Of replies, by backend; 48 where it is quick. transformers looks at each token, so that the first say most."""
_LOADED: dict[str, LLM] = {}


def llm(backend: str, path: Path) -> LLM:
    """SmolLM2 on a backend, loaded once."""
    if backend not in _LOADED:
        _LOADED[backend] = load(path, backend, registry=registry())
    return _LOADED[backend]


@pytest.fixture(scope="session")
def greedy(judge: Any) -> Callable[[list[int], list[int]], list[int]]:
    """transformers' best token after the prompt and after each token of a reply. Where these are the reply itself, it
    is greedy."""
    torch = pytest.importorskip("torch")

    @cache
    def best(prompt: tuple[int, ...], reply: tuple[int, ...]) -> list[int]:
        with torch.inference_mode():
            logits = judge(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 :]
        return list(logits.argmax(-1).tolist())

    return lambda prompt, reply: best(tuple(prompt), tuple(reply))


@pytest.mark.slow
@pytest.mark.parametrize(("text", "raw"), PROMPTS)
@pytest.mark.parametrize("backend", backends())
def test_greedy_tokens_are_those_of_transformers(
    text: str, raw: bool, backend: str, smollm2_path: Path, greedy: Any
) -> None:
    """Greedy tokens are those of transformers, and so the same on each backend."""
    model, length = llm(backend, smollm2_path), LENGTHS.get(backend, 48)
    reply = model.generate(text, raw=raw, max_tokens=length)
    *best, after = greedy(model.encode(text, raw), reply.token_ids)
    assert reply.token_ids == best
    if reply.finish_reason == "stop":
        assert after in model.stop_token_ids
    else:
        assert len(best) == length and reply.finish_reason == "length"


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends())
def test_logits_are_those_of_transformers(backend: str, smollm2_path: Path, judge: Any) -> None:
    """Logits of every position agree within float32's rounding through 30 layers."""
    torch = pytest.importorskip("torch")
    model = llm(backend, smollm2_path)
    ids = model.encode(CHAT["question"])
    with torch.inference_mode():
        wanted = judge(torch.tensor([ids])).logits[0].numpy()
    got = model.logits(ids)
    assert got.dtype == np.float32 and got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max() / 10, rtol=0)


@pytest.mark.slow
def test_a_batch_gives_what_each_gets_alone(smollm2_path: Path) -> None:
    """Prompts of different lengths and endings in one batch."""
    model = llm(backends()[-1], smollm2_path)
    prompts = [CHAT["question"], CHAT["french"], "Say hello."]
    together = model.generate(prompts, max_tokens=24)
    assert [r.token_ids for r in together] == [model.generate(p, max_tokens=24).token_ids for p in prompts]


@pytest.mark.slow
def test_a_chat_reuses_its_keys(smollm2_path: Path) -> None:
    """The second turn computes only what is new, and says what a fresh conversation would."""
    model = llm(backends()[-1], smollm2_path)
    chat = model.chat(system="You are terse.")
    chat.send("Name a colour.", max_tokens=16)
    second = chat.send("Name another.", max_tokens=16)
    assert chat.reused > 20
    history = chat.messages[:-1]
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert model.generate(history, max_tokens=16).text == second


@pytest.mark.slow
def test_a_chat_goes_on_after_a_reply_is_broken_off(smollm2_path: Path) -> None:
    """Closing the stream keeps what was said; the next turn is as if the reply had ended there."""
    model = llm(backends()[-1], smollm2_path)
    chat = model.chat()
    pieces = chat.stream("Tell me a story.", max_tokens=40)
    said = "".join(next(pieces).text for _ in range(5))
    pieces.close()
    assert chat.messages[-1] == {"role": "assistant", "content": said}
    reply = chat.send("Go on.", max_tokens=12)
    assert reply == model.generate(chat.messages[:-1], max_tokens=12).text
