"""A model's tokenizer: text to token ids by the `tokenizers` package, and back by the tokens' bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import models, processors

from tinyllm.errors import invalid
from tinyllm.models.text.encoder import encoder
from tinyllm.models.text.token_ids import plain
from tinyllm.models.text.token_text import TextStream, spelling_of
from tinyllm.models.text.tokenizer_bounds import library_errors


class Tokenizer:
    """`backend` does the encoding. `add_bos` and `add_eos` say what `add_special_tokens` puts before a text and after
    it; None leaves it to the backend, each for itself.

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
        self._encoder = encoder(backend, where)
        with library_errors(f"{where}: post_processor"):
            before, after = _put_around(backend.post_processor)
        bos, eos = [] if bos_token_id is None else [bos_token_id], list(self.eos_token_ids[:1])
        self._before = before if add_bos is None else bos * add_bos
        self._after = after if add_eos is None else eos * add_eos
        added = backend.get_added_tokens_decoder()
        self.special_tokens = {token.content: index for index, token in added.items() if token.special}
        self._special = frozenset(self.special_tokens.values())
        self._spell, self._strips = spelling_of(backend.decoder.__getstate__() if backend.decoder else b"null", where)
        self._bytes: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The ids that `add_special_tokens` puts before a text and after it."""
        return list(self._before), list(self._after)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """What encodes, of the tokenizers package."""
        return self._backend

    @cached_property
    def longest_token(self) -> int:
        """Most characters of a token, and at least 16, as a text may shrink a little before it is cut into tokens."""
        return max([16, *map(len, self._backend.get_vocab(with_added_tokens=True))])

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text. Special tokens written in it (`<|im_end|>`) become themselves.

        Raises `InvalidInputError` for what is no text, holds lone surrogates, is too long or takes too long, and where
        the tokenizers package fails.
        """
        if not isinstance(text, str):
            raise invalid("encode", "text", "a string", type(text).__name__)
        check_unicode("encode", "text", text)
        ids = self._encoder.encode(text)
        return [*self._before, *ids, *self._after] if add_special_tokens else ids

    def save(self, path: Path) -> None:
        """Write a `tokenizer.json`, which puts around a text what this tokenizer does."""
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        around = {str(backend.id_to_token(index)): index for index in (*self._before, *self._after)}
        if around:
            names = {index: token for token, index in around.items()}
            single = [*(names[index] for index in self._before), "$A", *(names[index] for index in self._after)]
            backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=[*around.items()])
        backend.save(str(path))

    def check_speed(self) -> None:
        """Raises `CheckpointError` where short texts take too long."""
        self._encoder.check()

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no UTF-8 give U+FFFD, ids of no token nothing.

        A sentencepiece tokenizer puts a space before a text, which is taken off again. For tokens that continue others
        see `stream`.
        """
        stream = self.stream(skip_special_tokens)
        text = "".join([stream.push(token) for token in plain(ids)]) + stream.finish()
        return text.removeprefix(" ") if self._strips else text

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        """A decoder of tokens that follow others: `push(id)` gives text as it completes, `finish()` the rest."""
        return TextStream(self.token_bytes, self._special if skip_special_tokens else ())

    def showing(self, texts: Collection[str]) -> Tokenizer:
        """The same tokenizer, in which special tokens of some texts are text like any other; itself where it has none
        of them."""
        if not self.special_tokens.keys() & {*texts}:
            return self
        other = copy(self)
        other.special_tokens = {text: index for text, index in self.special_tokens.items() if text not in texts}
        other._special = frozenset(other.special_tokens.values())
        return other

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for, empty for an id of no token."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
            known = self._bytes[token_id] = b"" if token is None else self._spell(token)
        return known


def _put_around(post_processor: processors.PostProcessor | None) -> tuple[list[int], list[int]]:
    """The ids that a post-processor puts before a text and after it."""
    if post_processor is None:
        return [], []
    text = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).encode("a")
    around = post_processor.process(text)
    place = around.sequence_ids.index(0)
    return around.ids[:place], around.ids[place + 1 :]


def check_unicode(where: str, argument: str, text: str) -> None:
    """Raises `InvalidInputError` for a text that holds lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(where, argument, "valid Unicode", f"a lone surrogate at character {error.start}") from error
