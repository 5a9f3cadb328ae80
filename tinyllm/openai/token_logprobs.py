"""Log probabilities of tokens, in the two forms that the API has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from tinyllm.engine.sampling.logprobs import TokenLogprob
from tinyllm.engine.sequence import Piece
from tinyllm.models.text.tokenizer import Tokenizer

Columns = dict[str, list[Any] | None]
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


def prompt_logprobs(
    tokenizer: Tokenizer, prompt: Sequence[int], entries: Sequence[TokenLogprob | None], alternatives: int
) -> list[dict[str, Any] | None]:
    """For each token of a prompt `{token id: {logprob, rank, decoded_token}}`, of the likeliest and of itself; None for
    the first, which nothing precedes."""
    told: list[dict[str, Any] | None] = []
    for token, entry in zip(prompt, entries, strict=True):
        if entry is None:
            told.append(None)
            continue
        ranked = {other: (logprob, rank) for rank, (other, logprob) in enumerate(entry.top[:alternatives], 1)}
        ranked[token] = (entry.logprob, entry.rank)
        told.append(
            {
                str(other): {
                    "logprob": max(logprob, _LOWEST),
                    "rank": rank,
                    "decoded_token": tokenizer.token_bytes(other).decode(errors="replace"),
                }
                for other, (logprob, rank) in ranked.items()
            }
        )
    return told


class CompletionLogprobs:
    """The columns that completions have, for the tokens of one choice. `whole` has those of all pieces so far.

    Args:
        alternatives: how many of the likeliest tokens are told beside each; 0: none, and no column of them.
        skip_special_tokens: whether the text leaves them out.
    """

    def __init__(self, tokenizer: Tokenizer, alternatives: int, skip_special_tokens: bool) -> None:
        self._tokenizer, self._alternatives, self._skips = tokenizer, alternatives, skip_special_tokens
        self._text = tokenizer.stream(skip_special_tokens)
        self._offset = 0
        self.whole = self._columns([])

    def echo(self, prompt: Sequence[int], entries: Sequence[TokenLogprob | None], text: str) -> Columns:
        """The columns of a prompt, the first token of which has no log probability.

        Args:
            text: the prompt as it is echoed.
        """
        for skips in (self._skips, False):  # a prompt that came as a text is echoed with its special tokens
            stream = self._tokenizer.stream(skips)
            texts = [stream.push(token) for token in prompt]
            if text in ("".join(texts), "".join(texts).removeprefix(" ")):
                break
        first = next((place for place, said in enumerate(texts) if said), 0)
        put_before = "".join(texts) != text and texts[first].startswith(" ")  # by the tokenizer, and not echoed
        unseen = max(0, sum(map(len, texts)) - len(text))  # those that the tokenizer puts before a text
        offsets = [max(0, offset - unseen) for offset in accumulate(map(len, texts[:-1]), initial=0)]
        self._offset = len(text)
        columns = self._columns(zip(prompt, entries, offsets, strict=True))
        if put_before:
            columns["tokens"][first] = columns["tokens"][first].removeprefix(" ")  # type: ignore[index]
        extend(self.whole, columns)
        return columns

    def push(self, piece: Piece) -> Columns:
        """The columns of a piece, and of the token that ended the reply. `text_offset` counts the characters before a
        token."""
        rows: list[tuple[int, TokenLogprob | None, int]] = []
        for entry in piece.logprobs:
            rows.append((entry.token_id, entry, self._offset))
            self._offset += len(self._text.push(entry.token_id))
        if piece.end_logprob is not None:
            rows.append((piece.end_logprob.token_id, piece.end_logprob, self._offset))
        columns = self._columns(rows)
        extend(self.whole, columns)
        return columns

    def _columns(self, rows: Iterable[tuple[int, TokenLogprob | None, int]]) -> Columns:
        tokens, logprobs, tops, offsets = [], [], [], []
        for token, entry, offset in rows:
            tokens.append(self._name(token))
            logprobs.append(None if entry is None else max(entry.logprob, _LOWEST))
            tops.append(None if entry is None else self._top(entry))
            offsets.append(offset)
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": tops if self._alternatives else None,
            "text_offset": offsets,
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens, and in any case the token itself."""
        told = entry.top[: self._alternatives]
        named = {self._name(token): max(logprob, _LOWEST) for token, logprob in told}
        return named | {self._name(entry.token_id): max(entry.logprob, _LOWEST)}

    def _name(self, token: int) -> str:
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def extend(columns: Columns, more: Columns) -> None:
    """Put more rows below those of columns."""
    for name, values in columns.items():
        if values is not None:
            values += more[name] or []
