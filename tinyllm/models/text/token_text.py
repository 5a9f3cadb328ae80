"""From token ids back to text: a token is bytes, and a text is the UTF-8 that its tokens' bytes spell."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tinyllm.errors import CheckpointError

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # sentencepiece writes a space so


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 characters stand for themselves, the other 68 for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def byte_level(token: str) -> bytes:
    """A byte-level token's bytes; one with a character outside the alphabet (an added token) stands for itself."""
    alphabet = byte_alphabet()
    if all(char in alphabet for char in token):
        return bytes(alphabet[char] for char in token)
    return token.encode()


def sentencepiece(token: str) -> bytes:
    """A sentencepiece token's bytes: `<0xE2>` is a byte, the block character a space."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass  # a token that only looks like a byte
    return token.replace(_SPACE, " ").encode()


def spelling_of(decoder_state: bytes, where: str) -> tuple[Callable[[str], bytes], bool]:
    """How a `tokenizer.json`'s decoder spells tokens, and whether a text loses one leading space.

    Raises `CheckpointError` for a decoder of another kind.
    """
    state: dict[str, Any] = json.loads(decoder_state) or {}
    steps = state["decoders"] if state.get("type") == "Sequence" else [state]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level, False
    if kinds == ["Metaspace"] and steps[0]["replacement"] == _SPACE:
        return sentencepiece, steps[0].get("prepend_scheme", "always") != "never"
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and kinds[3:] in ([], ["Strip"]):
        swap, strip = steps[0], steps[3] if len(steps) == 4 else None
        one_space = strip is None or (strip.get("content"), strip.get("start"), strip.get("stop")) == (" ", 1, 0)
        if one_space and swap == {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}:
            return sentencepiece, strip is not None
    raise CheckpointError(f"{where}: decoder: expected a byte-level or sentencepiece one, got {kinds}")


class TextStream:
    """Decodes tokens one by one. The pieces joined are what `Tokenizer.decode` gives for all; none ends inside a
    character."""

    def __init__(self, token_bytes: Callable[[int], bytes], strip_leading_space: bool) -> None:
        self._token_bytes = token_bytes
        self._strip = strip_leading_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; empty where a character still lacks bytes."""
        return self._stripped(self._decoder.decode(self._token_bytes(token_id)))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character whose bytes never came."""
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        if not (self._strip and text):
            return text
        self._strip = False
        return text.removeprefix(" ")
