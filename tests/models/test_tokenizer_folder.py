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
from tinyllm.models.text.chat_template import templates_from_folder
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder

TEMPLATES = ["$A", "<|im_start|> $A", "$A <|im_end|>", "<|im_start|> <|im_start|> $A <|im_end|>"]
TOKENS = {"<|im_start|>": 265, "<|im_end|>": 266}


def folder_tokenizer(
    folder: Path, template: str = "<|im_start|> $A", special: tuple[str, ...] = (*TOKENS,), **settings_: Any
) -> Path:
    made = tokenizers.Tokenizer(
        models.BPE({t: i for i, t in enumerate(byte_level_vocabulary())}, [tuple(m.split(" ")) for m in MERGES])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.normalizer = normalizers.NFC()
    made.add_special_tokens(list(special))
    made.post_processor = processors.TemplateProcessing(template, special_tokens=[*TOKENS.items()])
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


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("add_eos", [None, True, False])
@pytest.mark.parametrize("named", [(), ("bos_token",), ("eos_token",), ("bos_token", "eos_token")])
def test_what_settings_leave_unsaid_is_as_the_tokenizer_has_it(
    tmp_path: Path, template: str, add_bos: bool | None, add_eos: bool | None, named: tuple[str, ...]
) -> None:
    tokens = dict(zip(("bos_token", "eos_token"), TOKENS, strict=True))
    settings_ = {"add_bos_token": add_bos, "add_eos_token": add_eos} | {name: tokens[name] for name in named}
    folder_tokenizer(tmp_path, template, **{name: value for name, value in settings_.items() if value is not None})
    made = tokenizer_from_folder(tmp_path, {}, {})
    (letter,) = made.encode("h")
    whole = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("h").ids
    before, after = whole[: whole.index(letter)], whole[whole.index(letter) + 1 :]
    if add_bos is not None:
        before = [265] * (add_bos and "bos_token" in named)
    if add_eos is not None:
        after = [266] * (add_eos and "eos_token" in named)
    text = made.encode("hello")
    assert made.encode("hello", add_special_tokens=True) == [*before, *text, *after]
    assert made.encode("", add_special_tokens=True) == [*before, *after]
    assert made.bos_token_id == (265 if "bos_token" in named else None)
    assert made.eos_token_ids == ((266,) if "eos_token" in named else ())


def added(content: str, **flags: bool) -> dict[str, Any]:
    """A token with its flags, as transformers writes it."""
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"__type": "AddedToken", "content": content, **usual, **flags}


SETTINGS: dict[str, dict[str, Any]] = {
    "added": {"added_tokens_decoder": {"268": added("<b>"), "267": added("<a>", special=True)}},
    "stripping": {"added_tokens_decoder": {"267": added("<a>", rstrip=True, lstrip=True), "268": added("<b>")}},
    "normalized": {"added_tokens_decoder": {"267": added("e\u0301", normalized=True)}},
    "of the vocabulary": {"added_tokens_decoder": {"265": added("<|im_start|>", special=True), "5": added("&")}},
    "named": {"eos_token": "<|im_end|>", "pad_token": added("<|im_start|>", rstrip=True)},
    "named and added": {"added_tokens_decoder": {"267": added("<a>")}, "eos_token": "<a>"},
    "named, and of no vocabulary": {"pad_token": "<a>", "additional_special_tokens": ["<b>"]},
    "additional": {"additional_special_tokens": ["<|im_end|>"]},
    "extra": {"extra_special_tokens": [added("<|im_end|>", lstrip=True, special=True)]},
    "extra by name": {"extra_special_tokens": {"image": "<|im_end|>"}},
}
OLDER: dict[str, dict[str, Any]] = {
    "special_tokens_map.json": {"bos_token": added("<|im_start|>"), "eos_token": "<|im_end|>"},
    "added_tokens.json": {"<a>": 267},
}
MIXED = "x <|im_start|> <a> y<b>z<|im_end|> w<|im_start|> e\u0301\u00e9 hello &"


@pytest.mark.parametrize("name", [*SETTINGS, *OLDER, "all"])
def test_tokens_that_only_the_settings_know_are_as_in_transformers(tmp_path: Path, name: str) -> None:
    import transformers

    for file, content in OLDER.items():
        if name in (file, "all"):
            (tmp_path / file).write_text(json.dumps(content))
    folder_tokenizer(tmp_path, "$A", (), tokenizer_class="PreTrainedTokenizerFast", **SETTINGS.get(name, {}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    made = tokenizer_from_folder(tmp_path, {}, {})
    ids = made.encode(MIXED)
    assert ids == theirs.encode(MIXED)
    for skip in (True, False):
        assert made.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert made.bos_token_id == theirs.bos_token_id
    assert made.eos_token_ids == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))
    assert made.vocab_size == len(theirs)


def test_templates_know_the_special_tokens_of_older_files(tmp_path: Path) -> None:
    folder_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(OLDER["special_tokens_map.json"]))
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    template = templates_from_folder(tmp_path)
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}]) == "<|im_start|>hi<|im_end|>"


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"bos_token": 3}, "bos_token: expected a token, got 3"),
        ({"eos_token": "nope"}, "eos_token: expected a token of the vocabulary, got 'nope'"),
        ({"add_bos_token": 1}, "add_bos_token: expected true or false, got 1"),
        ({"added_tokens_decoder": []}, r"added_tokens_decoder: expected tokens by id, got \[\]"),
        ({"added_tokens_decoder": {"a": added("b")}}, "added_tokens_decoder: expected a token id, got 'a'"),
        ({"added_tokens_decoder": {"3": {}}}, "added_tokens_decoder: 3: expected a token with true or false"),
        ({"added_tokens_decoder": {"267": {"content": "b", "lstrip": 1}}}, "267: expected a token with true or false"),
        ({"added_tokens_decoder": {"5": added("<a>")}}, "decoder: 5: expected the id of '<a>', which is 267"),
        ({"additional_special_tokens": [5]}, "additional_special_tokens: expected a token, got 5"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, settings_: dict[str, Any], message: str) -> None:
    folder_tokenizer(tmp_path, **settings_)
    with pytest.raises(CheckpointError, match=message):
        tokenizer_from_folder(tmp_path, {}, {})


def test_missing_and_broken_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a readable file"):
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
