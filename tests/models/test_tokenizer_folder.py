"""Tokenizers of folders in Hugging Face form: which tokens are special, and bad files and settings refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tests.models.conftest import MERGES, byte_level_vocabulary
from tinyllm.errors import CheckpointError
from tinyllm.models.text.tokenizer import tokenizer_from_folder


def folder_tokenizer(folder: Path, **settings_: Any) -> Path:
    made = tokenizers.Tokenizer(
        models.BPE({t: i for i, t in enumerate(byte_level_vocabulary())}, [tuple(m.split(" ")) for m in MERGES])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.normalizer = normalizers.NFC()
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    made.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 265)])
    made.enable_truncation(4)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    return folder


def test_a_folder_gives_its_special_and_stop_tokens(tmp_path: Path) -> None:
    folder_tokenizer(tmp_path, bos_token={"content": "<|im_start|>"}, eos_token="<|im_end|>")
    made = tokenizer_from_folder(tmp_path, {"eos_token_id": 3, "bos_token_id": 9}, {"eos_token_id": [266, 4]})
    assert made.bos_token_id == 265
    assert made.eos_token_ids == (266, 4, 3)
    plain = made.encode("hello world 12 hello")
    assert len(plain) > 4  # the file's truncation is off
    assert made.encode("hello world 12 hello", add_special_tokens=True) == [265, *plain]
    folder_tokenizer(tmp_path, bos_token="<|im_start|>", add_bos_token=False)
    assert tokenizer_from_folder(tmp_path, {}, {}).encode("hello", add_special_tokens=True) == made.encode("hello")


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"bos_token": 3}, "bos_token: expected a token, got 3"),
        ({"eos_token": "nope"}, "eos_token: expected a token of the vocabulary, got 'nope'"),
        ({"add_bos_token": 1}, "add_bos_token: expected true or false, got 1"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, settings_: dict[str, Any], message: str) -> None:
    folder_tokenizer(tmp_path, **settings_)
    with pytest.raises(CheckpointError, match=message):
        tokenizer_from_folder(tmp_path, {}, {})


def test_missing_and_broken_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a readable tokenizer\.json"):
        tokenizer_from_folder(tmp_path, {}, {})
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected a tokenizer of the tokenizers package"):
        tokenizer_from_folder(tmp_path, {}, {})
    tokenizers.Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="decoder: expected a byte-level or sentencepiece one"):
        tokenizer_from_folder(tmp_path, {}, {})


def test_a_saved_transformers_tokenizer_is_read_alike(tmp_path: Path, smollm2_transformers: Any) -> None:
    smollm2_transformers.save_pretrained(tmp_path)
    made = tokenizer_from_folder(tmp_path, {}, {})
    text = "def f(x):\n    return 'naïve' <|im_end|> 🙂"
    assert made.encode(text) == smollm2_transformers.encode(text, add_special_tokens=False)
    assert made.eos_token_ids == (2,)
