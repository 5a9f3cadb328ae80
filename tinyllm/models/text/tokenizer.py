"""A model's tokenizer: text to token ids by the `tokenizers` package, and back by the tokens' bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from tinyllm.errors import CheckpointError, invalid
from tinyllm.models.checkpoints.files import read_json_if_there
from tinyllm.models.text.token_text import TextStream, spelling_of


class Tokenizer:
    """`backend` does the encoding. `add_bos` and `add_eos` say what `add_special_tokens` adds; None leaves it to the
    backend.

    `eos_token_ids` are the tokens that the model's files say end an answer; `bos_token_id` is None where it has none.
    `special_tokens` are the ids of those that are not shown, by their texts.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        where: str,
        bos_token_id: int | None = None,
        eos_token_ids: Sequence[int] = (),
        add_bos: bool | None = None,
        add_eos: bool | None = None,
    ) -> None:
        self._backend = backend
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(eos_token_ids)
        self._before = [bos_token_id] if add_bos and bos_token_id is not None else []
        self._after = [self.eos_token_ids[0]] if add_eos and self.eos_token_ids else []
        self._own_specials = add_bos is not None or add_eos is not None
        added = backend.get_added_tokens_decoder()
        self.special_tokens = {token.content: index for index, token in added.items() if token.special}
        self._special = frozenset(self.special_tokens.values())
        self._spell, self._strips = spelling_of(backend.decoder.__getstate__() if backend.decoder else b"null", where)
        self._bytes: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text. Special tokens written in it (`<|im_end|>`) become themselves.

        Raises `InvalidInputError` for what is no text, or holds lone surrogates.
        """
        if not isinstance(text, str):
            raise invalid("encode", "text", "a string", type(text).__name__)
        check_unicode("encode", "text", text)
        ids: list[int] = self._backend.encode(
            text, add_special_tokens=add_special_tokens and not self._own_specials
        ).ids
        return [*self._before, *ids, *self._after] if add_special_tokens and self._own_specials else ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no UTF-8 give U+FFFD, ids of no token nothing.

        A sentencepiece tokenizer puts a space before a text, which is taken off again. For tokens that continue others
        see `stream`.
        """
        stream = self.stream(skip_special_tokens)
        text = "".join([stream.push(token) for token in ids]) + stream.finish()
        return text.removeprefix(" ") if self._strips else text

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        """A decoder of tokens that follow others: `push(id)` gives text as it completes, `finish()` the rest."""
        return TextStream(self.token_bytes, self._special if skip_special_tokens else ())

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for, empty for an id of no token."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
            known = self._bytes[token_id] = b"" if token is None else self._spell(token)
        return known


def check_unicode(where: str, argument: str, text: str) -> None:
    """Raises `InvalidInputError` for a text that holds lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(where, argument, "valid Unicode", f"a lone surrogate at character {error.start}") from error


def tokenizer_from_folder(folder: Path, config: Mapping[str, Any], generation_config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a folder in Hugging Face form: `tokenizer.json`, with `tokenizer_config.json` where there is
    one.

    Raises `CheckpointError` where the file is missing or not understood.
    """
    path = folder / "tokenizer.json"
    try:
        backend = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: expected a readable tokenizer.json, got {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a tokenizer of the tokenizers package, got: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    settings = read_json_if_there(folder / "tokenizer_config.json")
    where = str(folder / "tokenizer_config.json")
    bos = _named(settings.get("bos_token"), backend, f"{where}: bos_token")
    if "bos_token" not in settings and isinstance(config.get("bos_token_id"), int):
        bos = config["bos_token_id"]
    stops = [_named(settings.get("eos_token"), backend, f"{where}: eos_token")]
    for source in (generation_config, config):
        value = source.get("eos_token_id")
        stops += value if isinstance(value, list) else [value]
    eos = [stop for stop in dict.fromkeys(stops) if isinstance(stop, int)]
    return Tokenizer(
        backend, str(path), bos, eos, _flag(settings, "add_bos_token", where), _flag(settings, "add_eos_token", where)
    )


def special_token(value: Any, where: str) -> str | None:
    """A special token as `tokenizer_config.json` gives it: a string, an object with `content`, or null."""
    content = value.get("content") if isinstance(value, Mapping) else value
    if content is not None and not isinstance(content, str):
        raise CheckpointError(f"{where}: expected a token, got {value!r:.80}")
    return content


def _named(value: Any, backend: tokenizers.Tokenizer, where: str) -> int | None:
    content = special_token(value, where)
    if content is None:
        return None
    token_id = backend.token_to_id(content)
    if token_id is None:
        raise CheckpointError(f"{where}: expected a token of the vocabulary, got {content!r}")
    return token_id


def _flag(settings: Mapping[str, Any], key: str, where: str) -> bool | None:
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{where}: {key}: expected true or false, got {value!r}")
    return value
