"""`tinyllm generate`: what goes where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake_model import fake_llm
from tinyllm.cli import session
from tinyllm.engine.sampling.defaults import SamplingDefaults
from tinyllm.llm import LLM


def test_reply_on_stdout_and_speed_on_stderr(cli: Cli, fake: None) -> None:
    result = cli("generate", "hello", "-n", "12")
    assert result.code == 0
    assert result.out == fake_llm().generate("hello", max_tokens=12).text + "\n"
    assert result.err.count("\n") == 1
    prompt = len(fake_llm().encode("hello"))
    assert (
        result.err.startswith(f"prompt {prompt} tokens, ")
        and "reply 12 tokens, " in result.err
        and "fake:cpu" in result.err
    )


def test_json_is_one_object(cli: Cli, fake: None) -> None:
    result = cli("generate", "hello", "-n", "5", "--json")
    found = json.loads(result.out)
    expected = fake_llm().generate("hello", max_tokens=5)
    assert list(found) == [
        "text",
        "token_ids",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
        "prefill_tok_s",
        "decode_tok_s",
        "backend",
        "model",
    ]
    assert (found["text"], found["token_ids"], found["finish_reason"]) == (expected.text, expected.token_ids, "length")
    assert (found["prompt_tokens"], found["completion_tokens"]) == (len(expected.prompt_token_ids), 5)
    assert found["prefill_tok_s"] > 0 and found["decode_tok_s"] > 0
    assert (found["backend"], found["model"], result.err) == ("fake:cpu", "smollm2", "")


def test_one_token_has_no_decode_speed(cli: Cli, fake: None) -> None:
    assert json.loads(cli("generate", "hello", "-n", "1", "--json").out)["decode_tok_s"] is None


@pytest.mark.parametrize("stdin", [b"hello", b"hello\n", b"hello\r\n"])
def test_prompt_from_stdin(cli: Cli, fake: None, stdin: bytes) -> None:
    assert cli("generate", "-", "-n", "8", stdin=stdin).out == cli("generate", "hello", "-n", "8").out


def test_raw_and_system_change_the_prompt(cli: Cli, fake: None) -> None:
    llm = fake_llm()
    assert cli("generate", "hi", "-n", "9", "--raw").out == llm.generate("hi", raw=True, max_tokens=9).text + "\n"
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert (
        cli("generate", "hi", "-n", "9", "--system", "be kind").out == llm.generate(messages, max_tokens=9).text + "\n"
    )


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--temperature", "0.9", "--seed", "5"], {"temperature": 0.9, "seed": 5}),
        (["--temperature", "3", "--seed", "5", "--top-k", "4"], {"temperature": 3.0, "seed": 5, "top_k": 4}),
        (["--temperature", "3", "--seed", "5", "--top-p", "0.5"], {"temperature": 3.0, "seed": 5, "top_p": 0.5}),
        (["--temperature", "3", "--seed", "5", "--min-p", "0.4"], {"temperature": 3.0, "seed": 5, "min_p": 0.4}),
        (["--repetition-penalty", "9"], {"repetition_penalty": 9.0}),
    ],
)
def test_sampling_options_arrive(cli: Cli, fake: None, options: list[str], settings: dict[str, float]) -> None:
    out = cli("generate", "hello", "-n", "30", *options).out
    assert out == fake_llm().generate("hello", max_tokens=30, **settings).text + "\n"
    bare = {k: v for k, v in settings.items() if k in ("temperature", "seed") and len(settings) > 2}
    assert out != fake_llm().generate("hello", max_tokens=30, **bare).text + "\n"


def test_stop_may_be_repeated(cli: Cli, fake: None) -> None:
    text = fake_llm().generate("hello", max_tokens=30).text
    first, second = text[20:23], text[9:12]
    assert (
        cli("generate", "hello", "-n", "30", "--stop", first, "--stop", second).out == text[: text.index(second)] + "\n"
    )


def test_settings_give_the_number_of_tokens(cli: Cli, fake: None, clean_environment: pytest.MonkeyPatch) -> None:
    Path("tinyllm.toml").write_text("max_tokens = 7\n")
    assert json.loads(cli("generate", "hello", "--json").out)["completion_tokens"] == 7
    assert json.loads(cli("generate", "hello", "--json", "-n", "3").out)["completion_tokens"] == 3


def test_verbose_says_what_loading_chose(cli: Cli, fake: None) -> None:
    result = cli("generate", "hello", "-n", "5", "--verbose", "--json")
    assert json.loads(result.out)["completion_tokens"] == 5
    assert result.err.splitlines() == [
        "kernels: 2",
        "      2 fake/linear:fused",
        "      1 fake/rms_norm:reference",
        "copies between backends: 1",
        "      1 host->fake:cpu",
        "schemes run as float matrices: 1",
        "  affine, 4 bits: 4 MB are 16 MB",
        "weights held in a second form: 1",
        "  embed: fake/embedding:rows, fake/linear:fused",
        "tensors of the checkpoint that were skipped: 1",
        "  rope_freqs.weight",
        "keys and values in int64",
    ]


def authored(monkeypatch: pytest.MonkeyPatch, **values: Any) -> LLM:
    """A fake model whose files say how to sample it, in place of the one that commands load."""
    llm = fake_llm()
    llm.sampling_defaults = SamplingDefaults(values, "generation_config.json")
    monkeypatch.setattr(session, "load_model", lambda *arguments, **settings: llm)
    return llm


SAMPLED = {"temperature": 1.5, "top_p": 0.9, "stop": ["q"]}


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ((), SAMPLED),
        (("--temperature", "0.7"), {**SAMPLED, "temperature": 0.7}),
        (("--top-p", "1"), {**SAMPLED, "top_p": 1.0}),
        (("--stop", "z", "--temperature", "0"), {"stop": ["z"]}),
    ],
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_what_nobody_says_is_as_the_models_files_say(
    command: str, options: tuple[str, ...], settings: dict[str, Any], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each setting by itself; `--temperature 0` is greedy."""
    authored(monkeypatch, **SAMPLED)
    expected = fake_llm().generate("hello", max_tokens=30, seed=4, **settings).text
    shared = ("-n", "30", "--seed", "4", *options)
    got = cli("chat", *shared, stdin=b"hello\n") if command == "chat" else cli("generate", "hello", *shared)
    assert got.out == expected + "\n"


def test_verbose_says_which_settings_are_the_models(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    authored(monkeypatch, **SAMPLED)
    told = cli("generate", "hello", "-n", "3", "--verbose", "--top-p", "0.5").err
    assert "sampling as generation_config.json says: temperature 1.5, stop ['q']\n" in told
    assert "sampling as" not in cli("generate", "hello", "-n", "3").err


def test_the_length_is_as_the_model_says_unless_the_settings_do(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, clean_environment: pytest.MonkeyPatch
) -> None:
    authored(monkeypatch, max_tokens=9)
    assert json.loads(cli("generate", "hello", "--json").out)["completion_tokens"] == 9
    Path("tinyllm.toml").write_text("max_tokens = 7\n")
    authored(monkeypatch, max_tokens=9)
    assert json.loads(cli("generate", "hello", "--json").out)["completion_tokens"] == 7


def test_the_real_model_answers(cli: Cli, smollm2_path: Path) -> None:
    found = json.loads(
        cli("generate", "What is the capital of France?", "-n", "12", "--json", "-m", str(smollm2_path)).out
    )
    assert "Paris" in found["text"]
    assert found["completion_tokens"] == len(found["token_ids"]) <= 12


@pytest.mark.parametrize(
    ("option", "prompt"),
    [
        (["--no-add-generation-prompt"], "<user>hello;"),
        (["--continue-final-message"], "<user>hello"),
        (["--chat-template-kwargs", '{"enable_thinking": false}'], "<user>hello;<assistant>"),
        (["--chat-template-kwargs", '{"mood": "glad"}'], "<user>hello;<assistant>glad"),
        (["--reasoning-effort", "none"], "<user>hello;<assistant>"),
    ],
)
def test_options_of_the_chat_template(cli: Cli, fake: None, option: list[str], prompt: str) -> None:
    result = cli("generate", "hello", "-n", "12", "--json", *option)
    assert json.loads(result.out)["text"] == fake_llm().generate(prompt, raw=True, max_tokens=12).text


@pytest.mark.parametrize("command", [["generate", "hello"], ["chat"]])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--reasoning-effort", "high"], "reasoning_effort: this model's chat template has no such variable"),
        (["--chat-template-kwargs", '{"a": 1}'], "chat_template_kwargs.a: this model's chat template has no such"),
        (["--chat-template-kwargs", "{"], "chat_template_kwargs: expected a JSON object, got '{'"),
        (["--chat-template-kwargs", "3"], "chat_template_kwargs: expected names with values, got 3"),
    ],
)
def test_options_that_the_template_does_not_know(
    cli: Cli, fake: None, command: list[str], option: list[str], message: str
) -> None:
    assert cli(*command, *option, stdin=b"hello\n").err.startswith(f"error: {message}")
