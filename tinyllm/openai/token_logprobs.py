"""Log probabilities of tokens, in the two forms that the API has."""

from __future__ import annotations

from typing import Any

from tinyllm.engine.sampling.logprobs import TokenLogprob
from tinyllm.models.text.tokenizer import Tokenizer

_LOWEST = -9999.0
"""In place of minus infinity, which JSON does not have."""


def chat_logprob(tokenizer: Tokenizer, entry: TokenLogprob) -> dict[str, Any]:
    """`{token, logprob, bytes, top_logprobs}`, as chat completions have it. A token that is no whole UTF-8 shows U+FFFD
    in `token`, and what it is in `bytes`."""
    top = [_chat_token(tokenizer, token, logprob) for token, logprob in entry.top]
    return _chat_token(tokenizer, entry.token_id, entry.logprob) | {"top_logprobs": top}


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode(errors="replace"), "logprob": max(logprob, _LOWEST), "bytes": list(data)}


class CompletionLogprobs:
    """The columns that completions have, for the tokens of one reply.

    Args:
        alternatives: how many of the likeliest tokens are told beside each; 0: none.
    """

    def __init__(self, tokenizer: Tokenizer, alternatives: int) -> None:
        self._tokenizer, self._alternatives = tokenizer, alternatives
        self._text = tokenizer.stream()
        self._offset = 0

    def columns(self, entries: tuple[TokenLogprob, ...]) -> dict[str, list[Any]]:
        """The columns of a piece. `text_offset` counts the characters of the reply before the token."""
        columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            columns["tokens"].append(self._name(entry.token_id))
            columns["token_logprobs"].append(max(entry.logprob, _LOWEST))
            columns["top_logprobs"].append(
                {self._name(token): max(logprob, _LOWEST) for token, logprob in entry.top}
                if self._alternatives
                else None
            )
            columns["text_offset"].append(self._offset)
            self._offset += len(self._text.push(entry.token_id))
        return columns

    def _name(self, token: int) -> str:
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
