"""A tokenizer as llguidance sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyllm.engine.grammar.library import load_llguidance
from tinyllm.models.text.tokenizer import Tokenizer


class Vocabulary:
    """The bytes of each token of a tokenizer. Special tokens are no text, so that no string contains them.

    It can be pickled. A copy spells texts by the longest tokens, as the tokenizer stays behind.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        load_llguidance()  # before the work, where it is not installed
        self.size = tokenizer.vocab_size
        self.ends = [token for token in tokenizer.eos_token_ids if token < self.size]
        self.tokens = [tokenizer.token_bytes(token) for token in range(self.size)]
        self.special_token_ids = []
        for token, text in enumerate(self.tokens):
            stream = tokenizer.stream()
            if text and not stream.push(token) + stream.finish():
                self.special_token_ids.append(token)
        self.special_token_ids = sorted({*self.special_token_ids, *self.ends})
        self.eos_token_id, self.bos_token_id = (self.ends or [self.size])[0], tokenizer.bos_token_id
        if not self.ends:  # llguidance wants one: an id past the others
            self.tokens.append(b"<end>")
            self.special_token_ids.append(self.size)
        self._encode: Callable[[str], list[int]] = tokenizer.encode
        special = frozenset(self.special_token_ids)
        self._ids = {text: token for token, text in enumerate(self.tokens) if text and token not in special}
        self._longest = max(map(len, self._ids), default=1)
        self._wrap()

    def _wrap(self) -> None:
        library = load_llguidance()
        self.tokenizer = library.LLTokenizer(library.TokenizerWrapper(self), len(self.tokens), self.ends or [self.size])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("tokenizer", "_encode")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._encode = _no_tokens
        self._wrap()

    def __call__(self, text: str) -> list[int]:
        """Tokens that spell a text exactly: the tokenizer's where they do (no space before it, no special token), else
        the longest ones. They end where no token goes on."""
        tokens, data = self._encode(text), text.encode()
        if b"".join(self.tokens[token] for token in tokens) == data and not {*tokens} & {*self.special_token_ids}:
            return tokens
        spelled, start = [], 0
        while start < len(data):
            ends = range(min(len(data), start + self._longest), start, -1)
            end = next((end for end in ends if data[start:end] in self._ids), None)
            if end is None:
                break
            spelled.append(self._ids[data[start:end]])
            start = end
        return spelled


def _no_tokens(text: str) -> list[int]:
    return []
