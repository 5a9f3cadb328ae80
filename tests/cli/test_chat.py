"""`tinyllm chat`, with its lines from a pipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake_model import fake_llm


def talk(*lines: str) -> list[str]:
    """What the model says to each line, by the API."""
    conversation = fake_llm().chat()
    return [conversation.send(line, max_tokens=10) for line in lines]


def test_history_is_kept_and_keys_are_reused(cli: Cli, fake: None) -> None:
    result = cli("chat", "-n", "10", stdin=b"hello\nwhat?\n\n")
    assert result.code == 0
    assert result.out.splitlines() == talk("hello", "what?")
    assert talk("hello", "what?")[1] != talk("what?")[0]
    first, second = result.err.splitlines()
    assert "cached" not in first and "of them cached" in second


def test_reset_forgets(cli: Cli, fake: None) -> None:
    result = cli("chat", "-n", "10", stdin=b"hello\n/reset\nwhat?\n")
    assert result.out.splitlines() == [*talk("hello"), *talk("what?")]


def test_system_message(cli: Cli, fake: None) -> None:
    result = cli("chat", "-n", "10", stdin=b"/system\n/system be kind\nhello\n/system")
    expected = fake_llm().chat("be kind").send("hello", max_tokens=10)
    assert result.out == expected + "\n"
    assert result.err.splitlines()[:2] == ["no system message", "system: be kind"]
    assert cli("chat", "-n", "10", "--system", "be kind", stdin=b"hello\n").out == expected + "\n"


def test_save_writes_the_conversation(cli: Cli, fake: None, tmp_path: Path) -> None:
    file = tmp_path / "talk é.json"
    cli("chat", "-n", "10", "--system", "be kind", stdin=f"hello\n/save {file}\n".encode())
    assert json.loads(file.read_text(encoding="utf-8")) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": fake_llm().chat("be kind").send("hello", max_tokens=10)},
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/save", "expected the name of a file"),
        ("/save /nonexistent/x.json", "cannot be written"),
        ("/rest", "Did you mean 'reset'?"),
        ("x" * 500, "fit into the context"),
    ],
)
def test_a_mistake_does_not_end_the_talk(cli: Cli, fake: None, line: str, said: str) -> None:
    result = cli("chat", "-n", "10", stdin=f"{line}\nhello\n".encode())
    assert result.code == 0
    assert result.err.startswith("error: ") and said in result.err.splitlines()[0]
    assert result.out.splitlines() == talk("hello")


def test_exit_leaves_and_help_helps(cli: Cli, fake: None) -> None:
    result = cli("chat", stdin=b"/help\n/exit\nhello\n")
    assert (result.code, result.out) == (0, "")
    assert all(name in result.err for name in ("/reset", "/system", "/save", "/exit"))


def test_lines_that_are_not_utf8(cli: Cli, fake: None) -> None:
    result = cli("chat", "-n", "10", stdin=b"hello\n\xff\n")
    assert result.err.splitlines()[1] == "error: stdin: expected UTF-8, got byte 0xff at position 0"
