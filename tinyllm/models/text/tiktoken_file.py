"""tiktoken's vocabularies: lines of a token's bytes in base64, and its rank.

Such a file says neither how a text is cut nor which special tokens there are. The first is known for the tokenizer
classes below, whose models came so; the second are those of `tokenizer_config.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.files import open_file, read_file
from tinyllm.models.text.byte_ranks import byte_rank_backend, decoded
from tinyllm.models.text.pre_tokenizers import PRE_TOKENIZERS
from tinyllm.models.text.tokenizer_bounds import library_errors

_CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "QWenTokenizer": ("qwen2", ()),
    "ChatGLM4Tokenizer": ("chatglm-bpe", ("[gMASK]", "<sop>")),
    "TikTokenTokenizer": ("kimi-k2", ()),
}
"""(the name of their cuts in GGUF files, what stands before a text) of the classes of Qwen 1, GLM-4 and Kimi."""
_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,9})\r?(?:\n|\Z)")


def is_tiktoken(path: Path) -> bool:
    """Whether a file begins as a vocabulary of tiktoken, whatever its name is."""
    with open_file(path) as file:
        return _LINE.match(file.read(4096)) is not None


def tiktoken_backend(path: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a tiktoken file; the caller says which of its special tokens are shown.

    settings: those of `tokenizer_config.json`. Raises `CheckpointError` for what is not understood, with its place.
    """
    where, name = path.parent / "tokenizer_config.json", settings.get("tokenizer_class")
    if not isinstance(name, str) or name not in _CLASSES:
        raise CheckpointError(
            f"{where}: tokenizer_class: expected one of {', '.join(_CLASSES)}, as {path.name} does not say how a text "
            f"is cut, got {quoted(name)}"
        )
    added = settings.get("added_tokens_decoder")
    if not isinstance(added, Mapping) or not added:
        raise CheckpointError(
            f"{where}: added_tokens_decoder: expected the special tokens, which {path.name} does not have, got "
            f"{shortened(added)}"
        )
    special = {}
    for key, value in added.items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if not key.isdecimal() or not isinstance(content, str) or not content:
            raise CheckpointError(
                f"{where}: added_tokens_decoder: expected tokens by id, got {shortened({key: value})}"
            )
        special[content] = int(key)
    ids = _ids(path)
    ranks = {*ids.values()}
    taken = next((token for token, index in special.items() if index in ranks), None)
    if taken is not None:
        raise CheckpointError(
            f"{where}: added_tokens_decoder: expected other ids than those of {path.name}, got {taken!r}"
        )
    cuts, before = _CLASSES[name]
    with library_errors(f"{path}: expected a vocabulary of bytes in the order of their merges, got"):
        made = byte_rank_backend(ids, PRE_TOKENIZERS[cuts], special)
        if before:
            missing = next((token for token in before if token not in special), None)
            if missing is not None:
                raise CheckpointError(f"{where}: added_tokens_decoder: expected {missing} for {name}, got none")
            pairs = [(token, special[token]) for token in before]
            made.post_processor = processors.TemplateProcessing(f"{' '.join(before)} $A", special_tokens=pairs)
    return made


def _ids(path: Path) -> dict[bytes, int]:
    data, place, ids = read_file(path), 0, {}
    number = 0
    while place < len(data):
        line = _LINE.match(data, place)
        number += 1
        if line is None:
            raise CheckpointError(f"{path}: line {number}: expected a token in base64 and its rank")
        try:
            token = decoded(line[1].decode())
        except ValueError as error:
            raise CheckpointError(f"{path}: line {number}: {error}") from error
        if token in ids:
            raise CheckpointError(f"{path}: line {number}: expected each token once, got {token!r:.40} twice")
        ids[token], place = int(line[2]), line.end()
    if len({*ids.values()}) != len(ids):
        raise CheckpointError(f"{path}: expected ranks that differ, got one twice")
    return ids
