"""`tokenizer.json`, looked at before the tokenizers package reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.files import read_file
from tinyllm.models.text.encoder import encoder
from tinyllm.models.text.tokenizer_bounds import library_errors

_MOST_VALUES = 8_000_000
"""Four times those of a vocabulary of 262,144 tokens; each takes some sixty bytes."""
_NO_WORDS = {"type": "BPE", "vocab": {}, "merges": []}


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a file. The package normalizes added tokens while it reads them, so the file's normalizer is
    looked at by itself first.

    Raises `CheckpointError` for what is no tokenizer, or asks for more than any real one does.
    """
    data, where = read_file(path), str(path)
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > _MOST_VALUES:
        raise CheckpointError(f"{where}: expected at most {_MOST_VALUES} values, got {values}")
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: expected JSON, got {error}") from error
    with library_errors(f"{where}: expected a tokenizer of the tokenizers package, got"):
        if isinstance(whole, dict):
            _check_added_tokens(whole, where)
        del whole
        backend = tokenizers.Tokenizer.from_buffer(data)
        backend.no_truncation()
        backend.no_padding()
    return backend


def check_added(backend: tokenizers.Tokenizer, added: Iterable[tuple[str, bool]], where: str) -> None:
    """Raises `CheckpointError` for added tokens that cannot be normalized soon, or are too long together.

    Args:
        backend: that they are to be added to.
        added: their texts, and whether they are normalized.
    """
    tokens = [*added]
    if not tokens:
        return
    normalized = [text for text, is_normalized in tokens if is_normalized]
    encoder(backend, where).check_added(normalized, sum(len(text) for text, _ in tokens))


def _check_added_tokens(whole: dict[str, Any], where: str) -> None:
    parts = whole | {"added_tokens": [], "model": _NO_WORDS, "truncation": None, "padding": None}
    added = whole.get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    texts = [
        (token["content"], token.get("normalized") is True) for token in tokens if isinstance(token.get("content"), str)
    ]
    check_added(tokenizers.Tokenizer.from_str(json.dumps(parts)), texts, where)
