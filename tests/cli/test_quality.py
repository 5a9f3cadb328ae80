"""`tinyllm perplexity`, `compare` and `quantize`: what they print, and what they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake_model import CONTEXT, fake_llm
from tests.models.conftest import write_gguf
from tests.models.kinds import byte_level
from tests.models.quantize.test_gguf_words import LLAMA
from tinyllm.cli import session
from tinyllm.errors import CheckpointError

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def test_perplexity_is_printed(cli: Cli, fake: None, text: str) -> None:
    """As a line; as JSON with what it is made of."""
    wanted = fake_llm().logprobs(TEXT, 16, 8)
    plain = cli("perplexity", "smollm2", text, "--context", "16", "--stride", "8")
    assert plain.out == f"{wanted.perplexity:.4f} +/- {wanted.standard_error:.4f}\n" and plain.err.count("\n") == 1
    found = json.loads(cli("perplexity", "smollm2", text, "--context", "16", "--stride", "8", "--json").out)
    assert found["perplexity"] == wanted.perplexity == pytest.approx(math.exp(-found["mean_logprob"]))
    assert (found["tokens"], found["scored"], found["backend"]) == (len(TEXT), len(TEXT) - 1, "fake:cpu")
    assert cli("perplexity", "smollm2", "-", stdin=TEXT.encode()).out == cli("perplexity", "smollm2", text).out


@pytest.mark.parametrize("command", [("perplexity", "smollm2"), ("compare", "smollm2", "smollm2")])
@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", (), "expected some text, got an empty file"),
        (b"a", (), "text: expected at least 2 tokens, got 1"),
        (b"\xff\xfe", (), "expected UTF-8"),
        (b"long", ("--context", str(CONTEXT + 1)), f"context: expected 2 to {CONTEXT} tokens"),
        (b"long", ("--context", "8", "--stride", "9"), "stride: expected 1 to 8 tokens"),
    ],
)
def test_texts_and_windows_that_cannot_be(
    command: tuple[str, ...],
    content: bytes,
    arguments: tuple[str, ...],
    message: str,
    cli: Cli,
    fake: None,
    tmp_path: Path,
) -> None:
    """One line, before anything is printed."""
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    result = cli(*command, str(path), *arguments)
    assert (result.code, result.out) == (2, "") and result.err.count("\n") == 1 and message in result.err


def test_a_text_that_is_not_there(cli: Cli, fake: None, tmp_path: Path) -> None:
    result = cli("perplexity", "smollm2", str(tmp_path / "none.txt"))
    assert result.code != 0 and "none.txt: expected a readable file" in result.err


def test_a_model_is_no_way_from_itself(cli: Cli, fake: None, text: str) -> None:
    found = json.loads(cli("compare", "smollm2", "smollm2", text, "--json", "--worst", "2").out)
    assert found["divergence_max"] == found["perplexity_change"] == 0 and found["agreement"] == 1
    worst = found["worst"][0]
    assert TEXT[: worst["position"]].endswith(worst["before"]) and worst["token"] == TEXT[worst["position"]]
    lines = cli("compare", "smollm2", "smollm2", text, "--worst", "2").out.splitlines()
    assert lines[0] == "MEASURE\tVALUE" and "agreement\t1" in lines
    assert lines[-3].startswith("DIVERGENCE\tAFTER\tTOKEN") and lines[-1].startswith("0.0000\t'")


def test_settings_of_b_are_those_of_a_unless_given(cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    asked: list[Any] = []

    def load(*arguments: Any, quiet: bool = False) -> Any:
        asked.append(arguments)
        return fake_llm()

    monkeypatch.setattr(session, "load_model", load)
    options = ("--backend", "torch", "--no-fast", "--dtype", "float32", "--kv-cache-dtype", "float16")
    cli("compare", "one", "two", text, *options, "--fast-b", "--dtype-b", "bfloat16")
    assert asked == [("one", "torch", "float32", False, "float16"), ("two", "torch", "bfloat16", True, "float16")]


def test_other_vocabularies_are_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """By their size, or the first token that differs."""
    ours, smaller, others = fake_llm(), fake_llm(), fake_llm()
    smaller.config = replace(smaller.config, vocab_size=100)
    for llm, shift in ((ours, 0), (smaller, 0), (others, 1)):
        llm.tokenizer.token_bytes = lambda token, shift=shift: bytes([token + shift * (token > 6)])  # type: ignore
    for second, message in (
        (smaller, "compare: B: expected the 128 tokens of A's vocabulary, got 100"),
        (others, r"compare: B: expected token 7 to be b'\x07', as in A's vocabulary, got b'\x08'"),
    ):
        models = iter((ours, second))
        monkeypatch.setattr(session, "load_model", lambda *_, models=models, **__: next(models))
        result = cli("compare", "one", "two", text)
        assert (result.code, result.err.strip()) == (2, f"error: {message}")


def test_quantize_writes_a_model_and_says_what_it_costs(cli: Cli, tmp_path: Path, text: str) -> None:
    source = write_gguf(tmp_path / "model.gguf")
    out = tmp_path / "out"
    plain = cli("quantize", str(source), str(out), "--group-size", "32", "--text", text)
    assert (
        plain.code == 0
        and plain.out.splitlines()[0] == str(out)
        and "affine4/32: 15 tensors quantized, 5 kept" in plain.err
    )
    assert plain.out.splitlines()[1].startswith("perplexity ")
    found = json.loads(cli("quantize", str(source), str(tmp_path / "o.gguf"), "--json").out)
    assert (found["form"], found["quantized"], found["kept"]) == ("Q8_0", 15, 5)
    assert found["perplexity_change"] == pytest.approx(found["perplexity_after"] / found["perplexity_before"] - 1)


def test_quantize_says_what_it_wrote_before_it_reads_a_text(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is there, though there is no memory to load it."""
    LLAMA.save(source := tmp_path / "source")
    byte_level(source)
    (source / "generation_config.json").write_text('{"max_new_tokens": 9}')

    def load(*arguments: Any, quiet: bool = False) -> Any:
        raise CheckpointError("no memory")

    monkeypatch.setattr(session, "load_model", load)
    result = cli("quantize", str(source), str(out := tmp_path / "out.gguf"))
    assert result.code == 1 and result.out == f"{out}\n"
    told = result.err.splitlines()
    assert "tensors quantized" in told[-3] and told[-1] == "error: no memory"
    assert told[-2].endswith("GGUF has no key for these settings of generation_config.json: max_new_tokens")


def test_quantize_reads_no_text_where_none_is_asked_for_or_can_be(cli: Cli, tmp_path: Path) -> None:
    """A model without a tokenizer is written nevertheless; with a text of the caller's it is an error."""
    source = write_gguf(tmp_path / "model.gguf", keys={"tokenizer.ggml.model": "none"})
    skipped = cli("quantize", str(source), str(tmp_path / "a.gguf"), "--no-perplexity")
    without = cli("quantize", str(source), str(tmp_path / "b.gguf"))
    assert [skipped.out.strip(), without.out.strip()] == [str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf")]
    assert "perplexity" not in skipped.err and "no perplexity: " in without.err
    (tmp_path / "text.txt").write_text("a text")
    asked = cli("quantize", str(source), str(tmp_path / "c.gguf"), "--text", str(tmp_path / "text.txt"))
    assert asked.code == 1 and "tokenizer.ggml." in asked.err and not (tmp_path / "c.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out", "--bits", "7"), "quantize: bits: expected one of 2, 3, 4, 5, 6, 8, got 7"),
        (("out", "--group-size", "100"), "quantize: group_size: expected one of 32, 64, 128, got 100"),
        (("out", "--format", "awq"), "quantize: --format: expected mlx or gguf, got 'awq'"),
        (("out.gguf", "--type", "Q9"), "quantize: type: expected one of Q8_0, Q4_0, got 'Q9'"),
        (("out.gguf", "--bits", "4"), "quantize: --bits: expected no such option with the format gguf"),
        (("out", "--type", "Q8_0"), "quantize: --type: expected no such option with the format mlx"),
        (("out", "--format", "gguf"), "quantize: OUT: expected a file that ends in .gguf"),
        (("out", "--text", "nowhere.txt", "--no-perplexity"), "quantize: --text: expected no text beside --no-perp"),
        (("out", "--text", "nowhere.txt"), "nowhere.txt: expected a readable file"),
        (("out", "--keep", "lm_head"), "--keep: expected a pattern of names such as"),
    ],
)
def test_quantize_refuses_before_it_writes(arguments: tuple[str, ...], message: str, cli: Cli, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf")
    result = cli("quantize", str(source), str(tmp_path / arguments[0]), *arguments[1:])
    assert result.code != 0 and message in result.err and result.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
