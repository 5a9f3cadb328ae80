"""A conversation on a fake model whose reply shows every key that is not its own."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from tests.cli.fake_model import fake_llm
from tinyllm.chat import Chat
from tinyllm.errors import InvalidInputError

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]


def roles(chat: Chat) -> list[str]:
    return [m["role"] for m in chat.messages]


def expected(chat: Chat, **sampling: Any) -> str:
    """What the last reply has to be: that of a model that sees the same history and has no cache."""
    return fake_llm().generate(chat.messages[:-1], **sampling).text


def test_a_new_stream_closes_the_one_that_never_began() -> None:
    chat = fake_llm().chat()
    chat.send("hello there", max_tokens=12)
    stale = chat.stream("what is that?", max_tokens=12)
    chat.reset()
    assert chat.send("another talk, quite a long one", max_tokens=12) == expected(chat, max_tokens=12)
    assert list(stale) == []
    assert roles(chat) == ["user", "assistant"]
    assert chat.send("go on", max_tokens=12) == expected(chat, max_tokens=12)


@pytest.mark.parametrize("again", ["stream", "send"])
def test_a_new_stream_closes_the_one_before_and_keeps_its_reply(again: str) -> None:
    chat = fake_llm().chat()
    first = chat.stream("one", max_tokens=20)
    said = "".join(next(first).text for _ in range(4))
    second = (
        "".join(p.text for p in chat.stream("two", max_tokens=9))
        if again == "stream"
        else chat.send("two", max_tokens=9)
    )
    assert roles(chat) == ["user", "assistant", "user", "assistant"]
    assert chat.messages[1]["content"] == said
    assert second == expected(chat, max_tokens=9)
    assert list(first) == [] and roles(chat) == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda chat: chat.reset(), ["system"]),
        (lambda chat: chat.set_system("be brief"), ["system", "user", "assistant"]),
    ],
)
def test_reset_and_system_close_the_stream(act: Any, left: list[str]) -> None:
    chat = fake_llm().chat("be kind")
    pieces = chat.stream("one", max_tokens=20)
    next(pieces)
    act(chat)
    assert list(pieces) == []
    assert roles(chat) == left
    assert chat.send("two", max_tokens=9) == expected(chat, max_tokens=9)


def test_a_stream_that_is_let_go_of_closes_at_once() -> None:
    chat = fake_llm().chat()
    for _ in chat.stream("one", max_tokens=20):
        break
    assert roles(chat) == ["user", "assistant"]


def test_nothing_is_kept_where_nothing_was_said() -> None:
    """Also the pool is made anew after it could not grow."""
    llm = fake_llm()
    chat = llm.chat()
    chat.send("hello", max_tokens=5)
    grow = llm.program.grow

    def full(state: dict[str, Any], pages: int, page_size: int, rows: int) -> Any:
        state.clear()
        raise MemoryError("no room")

    llm.program.grow = full  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        chat.send("x" * 300, max_tokens=5)
    llm.program.grow = grow  # type: ignore[method-assign]
    assert roles(chat) == ["user", "assistant"]
    assert chat.send("hello", max_tokens=5) == expected(chat, max_tokens=5)
    assert chat.reused == 0 and roles(chat) == ["user", "assistant"] * 2


@pytest.mark.parametrize("pieces", [4, None])
def test_what_was_said_before_is_not_computed_again(pieces: int | None) -> None:
    """To the token, also after a reply that was broken off; the last token of a reply has no keys yet."""
    chat = fake_llm().chat("be kind")
    assert chat.send("hello there", max_tokens=12) and chat.reused == 0
    for text in ("what is that?", "and this?"):
        before = chat.prompt_tokens + len(chat.messages[-1]["content"])
        progress: list[tuple[int, ...]] = []
        stream = chat.stream(text, on_prefill=lambda *tokens, seen=progress: seen.append(tokens), max_tokens=12)
        assert chat.reused == before - 1
        said = "".join(piece.text for piece in islice(stream, pieces))
        stream.close()
        assert progress == [(chat.prompt_tokens - chat.reused, chat.prompt_tokens - chat.reused)]
        assert chat.messages[-1]["content"] == said and len(said) == (pieces or 12)
        assert said == expected(chat, max_tokens=12)[: len(said)]
    chat.set_system("be brief")
    assert chat.send("hi", max_tokens=12) == expected(chat, max_tokens=12)
    assert chat.reused == len("<system>be ")


def test_a_chat_goes_on_after_it_was_interrupted_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache held went with the step, and is computed anew."""
    llm = fake_llm()
    chat = llm.chat()
    chat.send("hello", max_tokens=5)

    def interrupted(tokens: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(llm.program, "logits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            chat.send("what is that?", max_tokens=5)
    assert roles(chat) == ["user", "assistant"]
    assert chat.send("go on", max_tokens=9) == expected(chat, max_tokens=9)
    assert chat.reused == 0


def test_an_empty_reply_that_the_model_gave_stays() -> None:
    llm = fake_llm()
    llm.program.stop_after = 0  # type: ignore[attr-defined]
    chat = llm.chat()
    assert chat.send("hello") == ""
    assert roles(chat) == ["user", "assistant"]


@pytest.mark.parametrize(
    ("text", "said"), [("", "expected some text, got an empty prompt"), (None, "text: expected a text"), (5, "got 5")]
)
def test_what_is_said_must_be_text(text: Any, said: str) -> None:
    chat = fake_llm().chat()
    with pytest.raises(InvalidInputError, match=said):
        chat.send(text)
    assert chat.messages == []


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("abc", "chat: messages: expected a list of messages, got 'abc'"),
        ({"role": "user"}, "chat: messages: expected a list"),
        ([{"content": "x"}], r"chat: messages\[0\]: expected an object with a role"),
        ([*MESSAGES, "x"], r"chat: messages\[2\]: expected an object with a role, got 'x'"),
        ([{"role": 3, "content": "x"}], r"chat: messages\[0\]"),
    ],
)
def test_wrong_histories_are_named(messages: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        fake_llm().chat(messages=messages)


def test_a_system_message_must_be_text() -> None:
    with pytest.raises(InvalidInputError, match="chat: system: expected a text, got 5"):
        fake_llm().chat(system=5)  # type: ignore[arg-type]


def test_a_history_is_taken_up() -> None:
    chat = fake_llm().chat("be kind", MESSAGES)
    assert chat.send("and?", max_tokens=6) == expected(chat, max_tokens=6)
    assert roles(chat) == ["system", "user", "assistant", "user", "assistant"] and len(MESSAGES) == 2
