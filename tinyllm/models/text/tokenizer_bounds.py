"""What a tokenizer of the tokenizers package may do to a text: how much longer its normalizer makes it, how long its
patterns take, and what becomes of its panics."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import tokenizers
from tokenizers import models

from tinyllm.errors import CheckpointError, TinyllmError

LONGEST_TEXT = 1 << 22
"""Characters of a text that is encoded at once: more than a context of a million tokens holds."""
_MOST_GROWTH = 1 << 12
_MOST_STEPS = 32
_LONGEST_WORD, _LONGEST_PIECE, _MOST_AROUND = 1000, 256, 1000
_UNICODE_GROWTH = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "BertNormalizer": 12, "ByteLevel": 4}
"""Most characters that one becomes, by Unicode's own tables."""
_TRIALS = ("a", "The 1st cat's naïve: \n\n\t\u4e2d {x} == 12345 ", " ")
_LONGEST_TRIAL = 4096
_TRIAL_SECONDS, _SECONDS_PER_CHARACTER = 0.05, 1e-5


@contextmanager
def library_errors(what: str, failure: type[TinyllmError] = CheckpointError) -> Iterator[None]:
    """Whatever the tokenizers package raises, in one line. A panic of it is no `Exception`."""
    try:
        yield
    except TinyllmError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        line = " ".join(str(error)[:200].split())
        raise failure(f"{what}: {line or type(error).__name__}") from error


class Growth:
    """How many times longer a normalizer may make a text. Raises `CheckpointError` for one that may make it longer than
    any real one does."""

    def __init__(self, backend: tokenizers.Tokenizer, where: str) -> None:
        self._normalizer, self._where = backend.normalizer, where
        state = json.loads(self._normalizer.__getstate__()) if self._normalizer else None
        self._most, steps = 1, _steps(state, "normalizers")
        if len(steps) > _MOST_STEPS:
            raise CheckpointError(f"{where}: normalizer: expected at most {_MOST_STEPS} steps, got {len(steps)}")
        for step in steps:
            self._most *= _growth(step)
            if self._most > _MOST_GROWTH:
                raise CheckpointError(
                    f"{where}: normalizer: expected one that makes a text at most {_MOST_GROWTH} times longer, got more"
                )

    def check_added(self, normalized: Sequence[str], characters: int) -> None:
        """Raises `CheckpointError` for added tokens of more characters than can be held, as the normalizer makes them.

        Args:
            normalized: the texts of those that are normalized.
            characters: of these and the others.
        """
        most = characters + self._most * sum(map(len, normalized))
        if most > LONGEST_TEXT:
            got = f"{characters}, and up to {most} when they are normalized"
            raise CheckpointError(
                f"{self._where}: added_tokens: expected at most {LONGEST_TEXT} characters together, got {got}"
            )

    def allows(self, text: str) -> bool:
        """Whether a text stays of a length that can be held. Measured piece by piece where it need not."""
        most = LONGEST_TEXT - len(text)
        if most < 0:
            return False
        if self._most * len(text) <= LONGEST_TEXT or self._normalizer is None:
            return True
        length, most = (1 << 18) // self._most, (1 << 20) + 8 * len(text)
        for start in range(0, len(text), length):
            most -= len(self._normalizer.normalize_str(text[start : start + length]))
            if most < 0:
                return False
        return True


def check_shape(backend: tokenizers.Tokenizer, where: str) -> None:
    """Raises `CheckpointError` for a tokenizer that would go over a text far more often than any real one does."""
    state = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer else None
    steps = len(_steps(state, "pretokenizers"))
    if steps > _MOST_STEPS:
        raise CheckpointError(f"{where}: pre_tokenizer: expected at most {_MOST_STEPS} steps, got {steps}")
    processor = json.loads(backend.post_processor.__getstate__()) if backend.post_processor else None
    for step in _steps(processor, "processors"):
        if step["type"] == "TemplateProcessing":
            _check_template(step, f"{where}: post_processor")
    model = backend.model
    if isinstance(model, models.WordPiece) and model.max_input_chars_per_word > _LONGEST_WORD:
        got = f"expected at most {_LONGEST_WORD}, got {model.max_input_chars_per_word}"
        raise CheckpointError(f"{where}: model.max_input_chars_per_word: {got}")
    if isinstance(model, models.Unigram):
        longest = max([0, *map(len, backend.get_vocab(with_added_tokens=False))])
        if longest > _LONGEST_PIECE:
            got = f"expected pieces of at most {_LONGEST_PIECE} characters, got one of {longest}"
            raise CheckpointError(f"{where}: model.vocab: {got}")


def check_speed(backend: tokenizers.Tokenizer, where: str) -> None:
    """Raises `CheckpointError` for a tokenizer that takes too long for a short text: the time of its patterns may go
    with the square of a text's length, or double with each character, which shows before it takes long."""
    length = 16
    while length <= _LONGEST_TRIAL:
        for trial in _TRIALS:
            text = (trial * length)[:length]
            began = time.thread_time()
            with library_errors(f"{where}: expected a tokenizer that takes any text, got"), suppress(Exception):
                backend.encode(text, add_special_tokens=False)  # what no token spells is refused when it comes
            if time.thread_time() - began > _TRIAL_SECONDS + length * _SECONDS_PER_CHARACTER:
                raise CheckpointError(f"{where}: expected a quick tokenizer, got one slow at {length} characters")
        length *= 2


def _check_template(step: dict[str, Any], where: str) -> None:
    texts = sum("Sequence" in piece for piece in step["single"])
    if texts != 1:
        raise CheckpointError(f"{where}: expected a template with one text, got {texts}")
    tokens = step["special_tokens"]
    around = [
        len(tokens.get(piece["SpecialToken"]["id"], {"ids": [0]})["ids"])
        for piece in step["single"]
        if "SpecialToken" in piece
    ]
    if sum(around) > _MOST_AROUND:
        raise CheckpointError(f"{where}: expected at most {_MOST_AROUND} tokens around a text, got {sum(around)}")


def _steps(state: Any, field: str) -> list[Any]:
    """The steps of a part, those of sequences in sequences included."""
    if not isinstance(state, dict):
        return []
    if state.get("type") != "Sequence":
        return [state]
    return [inner for step in state[field] for inner in _steps(step, field)]


def _growth(step: dict[str, Any]) -> int:
    """Most characters that one character becomes in a step."""
    kind = step["type"]
    if kind == "Replace":
        found = step["pattern"].get("String")
        return 1 + len(step["content"]) if not found else max(1, -(-len(step["content"]) // len(found)))
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Precompiled":
        return _longest_replacement(base64.b64decode(step["precompiled_charsmap"]))
    return _UNICODE_GROWTH.get(kind, 1)


def _longest_replacement(charsmap: bytes) -> int:
    """The most characters that sentencepiece's map puts for one: after the size of its trie and the trie itself come
    the texts, each ended by a zero."""
    texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode(errors="replace")) for text in texts), 1)
