"""The tokenizer that a GGUF file carries in its metadata, byte-level BPE ("gpt2"), sentencepiece BPE ("llama") or a
sentencepiece vocabulary with its merges ("gemma4"), and its chat templates."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

from tinyllm.errors import CheckpointError, quoted, shortened, suggest
from tinyllm.models.checkpoints.gguf_header import GgufHeader
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.pre_tokenizers import CHARACTER_LEVEL, PRE_TOKENIZERS
from tinyllm.models.text.sentencepiece import CONTROL, NORMAL, USER_DEFINED, Sentencepiece
from tinyllm.models.text.token_text import SPACE
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.tokenizer_bounds import library_errors
from tinyllm.models.text.turn_ends import KNOWN_ENDS


def tokenizer_from_gguf(file: GgufHeader) -> Tokenizer:
    """The tokenizer of a GGUF file. Raises `CheckpointError` for a kind or pre-tokenizer not known, or inconsistent
    metadata."""
    vocabulary = _Vocabulary(file)
    kind = vocabulary.get("model")
    with library_errors(f"{file.path}: expected a vocabulary of the tokenizers package, got"):
        if kind == "gemma4" or (kind == "gpt2" and vocabulary.pre in CHARACTER_LEVEL):
            backend, adds_bos = _character_level(vocabulary), vocabulary.pre != "sarvam-moe"
        elif kind == "gpt2":
            backend, adds_bos = _byte_level(vocabulary)
        elif kind == "llama":
            backend, adds_bos = _sentencepiece(vocabulary), True
        else:
            raise vocabulary.fail("model", "gpt2, llama or gemma4", repr(kind))
        vocabulary.add_added_tokens(backend)
    eos = [stop for stop in dict.fromkeys(vocabulary.special(key) for key in ("eos", "eot", "eom")) if stop is not None]
    return Tokenizer(
        backend,
        str(file.path),
        vocabulary.special("bos"),
        eos,
        add_bos=vocabulary.flag("add_bos_token", adds_bos),
        add_eos=vocabulary.flag("add_eos_token", False),
    )


def special_tokens(file: GgufHeader) -> dict[str, str]:
    """The tokens that chat templates know by name: `bos_token`, `eos_token`, `unk_token`, `pad_token`."""
    vocabulary = _Vocabulary(file)
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: vocabulary.special(key) for name, key in names.items()}
    return {name: vocabulary.tokens[index] for name, index in ids.items() if index is not None}


def templates_from_gguf(file: GgufHeader) -> ChatTemplate | None:
    """The templates in a GGUF's metadata: `tokenizer.chat_template`, and `tokenizer.chat_template.<name>`."""
    prefix = "tokenizer.chat_template"
    found = {key: file.metadata[key] for key in file.metadata if key == prefix or key.startswith(f"{prefix}.")}
    for key, value in found.items():
        if not isinstance(value, str):
            raise CheckpointError(f"{file.path}: {quoted(key)}: expected a template, got {type(value).__name__}")
    templates = {key.removeprefix(prefix).lstrip(".") or "default": value for key, value in found.items()}
    return ChatTemplate(templates, special_tokens(file), str(file.path)) if templates else None


class _Vocabulary:
    """The keys under `tokenizer.ggml`, checked against one another."""

    def __init__(self, file: GgufHeader) -> None:
        self.file = file
        self.tokens: list[str] = self.strings("tokens")
        self.pre = str(self.get("pre", "default"))
        self.types = self.numbers("token_type")

    def get(self, key: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"tokenizer.ggml.{key}", default)

    def fail(self, key: str, expected: str, got: object) -> CheckpointError:
        return CheckpointError(f"{self.file.path}: tokenizer.ggml.{key}: expected {expected}, got {shortened(got)}")

    def strings(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            raise self.fail(key, "a list of strings", "nothing" if value is None else type(value).__name__)
        return value

    def numbers(self, key: str) -> list[Any] | None:
        value = self.get(key)
        if value is not None and (
            not isinstance(value, list) or len(value) != len(self.tokens) or isinstance(value[0], str)
        ):
            raise self.fail(
                key, f"{len(self.tokens)} numbers, one a token", len(value) if isinstance(value, list) else value
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false", value)
        return value

    def ids(self) -> dict[str, int]:
        made = {token: index for index, token in enumerate(self.tokens)}
        if len(made) != len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if made[token] != index)
            raise self.fail("tokens", "each token once", f"{quoted(twice)} twice")
        return made

    def merges(self) -> list[tuple[str, str]]:
        """The pairs that become one token, in their order."""
        ids, merges = self.ids(), []
        for merge in self.strings("merges"):
            left, _, right = merge.partition(" ")
            if left not in ids or right not in ids or left + right not in ids:
                raise self.fail("merges", "two tokens that make a third", quoted(merge))
            merges.append((left, right))
        return merges

    def special(self, name: str) -> int | None:
        """The id under `<name>_token_id`, None where the key is missing."""
        index = self.get(f"{name}_token_id")
        if index is not None and (
            not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(self.tokens)
        ):
            raise self.fail(f"{name}_token_id", f"an id below {len(self.tokens)}", index)
        return index

    def of_type(self, kind: int) -> list[str]:
        return [token for token, its in zip(self.tokens, self.types or (), strict=False) if its == kind]

    def whole(self) -> tuple[str, ...]:
        """Pieces taken whole that have spaces, as Gemma's runs of them: they are found once a text's spaces are what
        pieces have for them."""
        return tuple(token for token in self.of_type(USER_DEFINED) if SPACE in token)

    def add_added_tokens(self, backend: tokenizers.Tokenizer) -> None:
        """Control and user-defined tokens are taken whole, wherever they stand in a text. What is known to end a turn
        is a control token whatever the file calls it: files of Gemma 4 have `<|tool_response>` as a user's own."""
        own = self.of_type(USER_DEFINED)
        control = [*self.of_type(CONTROL), *(token for token in own if token in KNOWN_ENDS)]
        backend.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in control])
        backend.add_tokens(
            [tokenizers.AddedToken(token, normalized=False, special=False) for token in own if token not in KNOWN_ENDS]
        )


def _byte_level(vocabulary: _Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    """The tokenizer, and whether a text begins with `bos` where the file does not say."""
    cuts = PRE_TOKENIZERS.get(vocabulary.pre)
    if cuts is None:
        known = (*PRE_TOKENIZERS, *CHARACTER_LEVEL)
        raise vocabulary.fail(
            "pre", "a known pre-tokenizer", f"{quoted(vocabulary.pre)}.{suggest(vocabulary.pre, known)}"
        )
    model = models.BPE(vocab=vocabulary.ids(), merges=vocabulary.merges(), ignore_merges=cuts.whole_words)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = cuts.build()
    if cuts.nfc:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend, cuts.adds_bos


def _character_level(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    """A sentencepiece vocabulary with merges of its own."""
    return Sentencepiece(
        vocabulary.tokens,
        [0.0] * len(vocabulary.tokens),
        vocabulary.types or [NORMAL] * len(vocabulary.tokens),
        unknown=vocabulary.special("unknown"),
        add_prefix=vocabulary.flag("add_space_prefix", False),
        merges=vocabulary.merges(),
        whole=vocabulary.whole(),
    ).backend()


def _sentencepiece(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    vocabulary.ids()  # each token once
    scores = vocabulary.numbers("scores")
    if scores is None:
        raise vocabulary.fail("scores", f"{len(vocabulary.tokens)} numbers", "nothing")
    if vocabulary.flag("remove_extra_whitespaces", False):
        raise vocabulary.fail("remove_extra_whitespaces", "false", True)
    return Sentencepiece(
        vocabulary.tokens,
        scores,
        vocabulary.types or [NORMAL] * len(scores),
        unknown=vocabulary.special("unknown"),
        add_prefix=vocabulary.flag("add_space_prefix", True),
        whole=vocabulary.whole(),
    ).backend()
