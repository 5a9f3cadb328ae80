"""`tekken.json`: the tokenizers of Mistral's models in Mistral's own form.

Source: the `mistral_common` package. Special tokens come first: a token's id is its rank after them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.files import json_object, read_file
from tinyllm.models.families.ranges import is_integer
from tinyllm.models.text.byte_ranks import byte_rank_backend, decoded
from tinyllm.models.text.pre_tokenizers import PreTokenizer
from tinyllm.models.text.tokenizer_bounds import library_errors

TEKKEN_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_FIRST_SPECIALS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""Of files that list none, which are those up to version 7."""
_LISTS_NONE = ("v3", "v7")
_READ_OTHERWISE = re.compile(r"\{\d+,?\d*\}\+|(?<!\\)\$")
"""What the tokenizers package's expressions mean otherwise than tiktoken's: `{1,3}+`, and `$` before a line's end."""


def tekken_backend(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a `tekken.json`, with its special tokens; `<s>` stands before a text.

    Raises `CheckpointError` for a file that is not understood, with its field.
    """
    content = json_object(read_file(path), str(path))
    config = content.get("config")
    config = config if isinstance(config, dict) else {}
    size, count = (_number(config, name, path) for name in ("default_vocab_size", "default_num_special_tokens"))
    pattern = config.get("pattern")
    if not isinstance(pattern, str) or _READ_OTHERWISE.search(pattern):
        raise CheckpointError(
            f"{path}: config.pattern: expected a regular expression without $ and possessive counts, got "
            f"{shortened(pattern)}"
        )
    special = _specials(content, config, count, path)
    ids = _ids(content.get("vocab"), size - count, count, path)
    with library_errors(f"{path}: expected a vocabulary of bytes in the order of their merges, got"):
        made = byte_rank_backend(ids, PreTokenizer((pattern,)), {token: index for index, (token, _) in special.items()})
        for _, (token, hidden) in sorted(special.items()):
            made.add_tokens([tokenizers.AddedToken(token, normalized=False, special=hidden)])
        bos = made.token_to_id("<s>")
        if bos is not None:
            made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    return made


def _number(config: dict[str, Any], name: str, path: Path) -> int:
    value: Any = config.get(name)
    if not is_integer("token id", value) or not 0 <= value < 1 << 24:
        raise CheckpointError(f"{path}: config.{name}: expected a number of tokens, got {shortened(value)}")
    return int(value)


def _specials(content: dict[str, Any], config: dict[str, Any], count: int, path: Path) -> dict[int, tuple[str, bool]]:
    """(text, whether it is left out of what is shown) of each special token by its id. Ids that have no name get one,
    as in `mistral_common`."""
    listed = content.get("special_tokens")
    if listed is None:
        version = config.get("version")
        if version not in _LISTS_NONE:
            raise CheckpointError(
                f"{path}: special_tokens: expected a list, without which version {quoted(version)} is not known"
            )
        listed = [{"rank": rank, "token_str": token} for rank, token in enumerate(_FIRST_SPECIALS[:count])]
    found = {index: (f"<SPECIAL_{index}>", True) for index in range(count)}
    for entry in listed if isinstance(listed, list) else [listed]:
        entry = entry if isinstance(entry, dict) else {}
        rank: Any = entry.get("rank")
        token = entry.get("token_str")
        if not (is_integer("token id", rank) and 0 <= rank < count and isinstance(token, str) and token):
            raise CheckpointError(
                f"{path}: special_tokens: expected a rank below {count} and a token_str, got {shortened(entry)}"
            )
        found[rank] = token, entry.get("is_control", True) is not False
    if len({token for token, _ in found.values()}) != count:
        raise CheckpointError(f"{path}: special_tokens: expected {count} texts that differ, got one twice")
    return found


def _ids(vocab: Any, most: int, first: int, path: Path) -> dict[bytes, int]:
    """The ids of the tokens, of which a file may have more than it uses."""
    if not isinstance(vocab, list) or not 0 < most <= len(vocab):
        got = len(vocab) if isinstance(vocab, list) else shortened(vocab)
        raise CheckpointError(f"{path}: vocab: expected at least {most} tokens, at least one of them used, got {got}")
    ids: dict[bytes, int] = {}
    for rank, entry in enumerate(vocab[:most]):
        if not isinstance(entry, dict) or entry.get("rank") != rank or not isinstance(entry.get("token_bytes"), str):
            raise CheckpointError(
                f"{path}: vocab.{rank}: expected the rank {rank} and token_bytes, got {shortened(entry)}"
            )
        try:
            ids[decoded(entry["token_bytes"])] = first + rank
        except ValueError as error:
            raise CheckpointError(f"{path}: vocab.{rank}.token_bytes: {error}") from error
    if len(ids) != most:
        raise CheckpointError(f"{path}: vocab: expected tokens that differ, got one twice")
    return ids
