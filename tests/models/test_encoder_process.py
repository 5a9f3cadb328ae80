"""Patterns that may take for ever encode in a process that the system ends; those of known models do not need it."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from tests.models.conftest import write_gguf
from tests.models.test_tokenizer_limits import added, replace, split, written
from tinyllm.errors import CheckpointError, InvalidInputError
from tinyllm.models.checkpoints.gguf import GgufFile
from tinyllm.models.text.encoder import EncoderHere, EncoderProcess, encoder
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf
from tinyllm.models.text.pre_tokenizers import PRE_TOKENIZERS
from tinyllm.models.text.token_patterns import are_quick

SLOW_ON_ONE = r"x(?:a|aa)+[yz]|\s+"
TEXTS = ["", "a b\n c", "x" + "a" * 24 + "y", "x" + "a" * 20 + "b", "é \U0001f600\0", "12 " * 3000]
RUNS = ["a", "A", "\u4e2d", "1", " ", "\n", " \n", "!", "'x", "aA", "a 1", "a\u0301", "\u3000"]
LENGTH = 6000


def cut_by(pattern: str) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "x": 1, " ": 2, "1": 3, "<unk>": 70_000}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return backend


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "encoder_child" in " ".join(p.cmdline())]


def test_the_process_gives_the_ids_that_this_one_gives() -> None:
    backend = cut_by(SLOW_ON_ONE)
    other = encoder(backend, "some.json")
    other.check()
    assert isinstance(other, EncoderProcess)
    assert [other.encode(text) for text in TEXTS] == [EncoderHere(backend, "some.json").encode(text) for text in TEXTS]


def test_a_text_that_its_pattern_is_slow_on_is_refused_and_the_next_is_encoded(tmp_path: Path) -> None:
    tokenizer = written(tmp_path, pre_tokenizer=split(SLOW_ON_ONE))
    begun = time.process_time()
    with pytest.raises(InvalidInputError, match="text: expected one that the tokenizer's patterns soon cut"):
        tokenizer.encode(("x" + "a" * 29 + "b") * 400 + "y")
    assert time.process_time() - begun < 1 and tokenizer.encode("ab") == [0, 1]
    assert len(children()) == 1
    del tokenizer
    gc.collect()
    assert not children()


def test_an_added_token_that_a_normalizer_is_slow_on_is_refused_with_the_tokenizer(tmp_path: Path) -> None:
    parts = {"normalizer": replace(SLOW_ON_ONE, "", "Regex"), "added_tokens": [added(("x" + "a" * 29 + "b") * 400)]}
    begun = time.process_time()
    with pytest.raises(CheckpointError, match="expected added tokens that are soon normalized, got some that take too"):
        written(tmp_path, **parts)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("pattern", ["(a+)+b", r"(?:a?){300}a{300}b"])
def test_a_pattern_that_is_slow_on_a_plain_text_is_refused_with_the_tokenizer(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a (quick )?tokenizer"):
        written(tmp_path, pre_tokenizer=split(pattern))


def test_a_known_model_that_looks_ahead_over_all_digits_refuses_too_many(tmp_path: Path) -> None:
    tokenizer = tokenizer_from_gguf(GgufFile(write_gguf(tmp_path / "m.gguf", pre="tiny_aya")))
    assert len(tokenizer.encode("1" * 600)) > 100
    with pytest.raises(InvalidInputError, match="text: expected one that the tokenizer's patterns soon cut"):
        tokenizer.encode("1" * 120_000)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_patterns_that_count_as_quick_are_linear_in_any_run(name: str) -> None:
    made = PRE_TOKENIZERS[name]
    for pattern in filter(are_quick, (*made.cuts, *made.byte_cuts)):
        cut = pre_tokenizers.Split(Regex(pattern), "isolated")
        for run in RUNS:
            begun = time.thread_time()
            cut.pre_tokenize_str((run * LENGTH)[:LENGTH] + "x")
            assert time.thread_time() - begun < 0.1, (pattern, run)


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        (" {2,}", True),
        (r"<\|end\|>|'s|\p{L}+| ?[^\s\p{N}]+|\d", True),
        (r"[\r\n]", True),
        (PRE_TOKENIZERS["qwen2"].cuts[0], True),
        (PRE_TOKENIZERS["afmoe"].cuts[0], False),
        (r"\s+$", False),
        (r"\s*\n", False),
        ("a?b?c", False),
        ("a{100}", False),
        ("(?:a)+", False),
        ("a|" * 600, False),
        ("[a&&[b]]", False),
        (r"\Xa", False),
        ("a+?", False),
    ],
)
def test_what_counts_as_quick(pattern: str, quick: bool) -> None:
    assert are_quick(pattern) is quick


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)"])
def test_no_process_outlives_the_one_that_started_it(end: str) -> None:
    program = (
        "from tests.models.test_encoder_process import *\n"
        "made = encoder(cut_by(SLOW_ON_ONE), 'some.json'); made.check()\n"
        f"print(children()[0].pid, flush=True)\n{end}"
    )
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=True)
    until = time.monotonic() + 10
    while psutil.pid_exists(int(run.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(run.stdout))
