"""From token ids back to text: a token is bytes, and a text is the UTF-8 that its tokens' bytes spell."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Container
from functools import cache
from typing import Any

from tinyllm.errors import CheckpointError, quoted

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # sentencepiece writes a space so


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


def metaspace(token: str) -> bytes:
    """A sentencepiece token's bytes where no token stands for a byte: the block character is a space."""
    return token.replace(SPACE, " ").encode()


def sentencepiece(token: str) -> bytes:
    """A sentencepiece token's bytes: `<0xE2>` is a byte, the block character a space."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass  # a token that only looks like a byte
    return metaspace(token)


def spelling_of(decoder_state: bytes, where: str) -> tuple[Callable[[str], bytes], bool]:
    """How a `tokenizer.json`'s decoder spells tokens, and whether a whole text loses one leading space, which encoding
    put there.

    Raises `CheckpointError` for a decoder of another kind.
    """
    state: dict[str, Any] = json.loads(decoder_state) or {}
    steps = state["decoders"] if state.get("type") == "Sequence" else [state]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level, False
    if kinds == ["Metaspace"] and steps[0]["replacement"] == SPACE:
        return metaspace, steps[0].get("prepend_scheme", "always") != "never"
    has_bytes = kinds[1:2] == ["ByteFallback"]
    if kinds[:1] == ["Replace"] and kinds[1 + has_bytes :] in ([], ["Fuse"], ["Fuse", "Strip"]):
        swap, strip = steps[0], steps[-1] if kinds[-1] == "Strip" else None
        one_space = strip is None or (strip.get("content"), strip.get("start"), strip.get("stop")) == (" ", 1, 0)
        if one_space and swap == {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}:
            return sentencepiece if has_bytes else metaspace, strip is not None
    raise CheckpointError(f"{where}: decoder: expected a byte-level or sentencepiece one, got {quoted(kinds)}")


class TextStream:
    """Decodes tokens that follow others, one by one. The pieces joined are what the tokens' bytes spell, the space
    before a first word included; none ends inside a character. Tokens of `left_out` have no text."""

    def __init__(self, token_bytes: Callable[[int], bytes], left_out: Container[int] = ()) -> None:
        self._token_bytes = token_bytes
        self._left_out = left_out
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; empty where a character still lacks bytes."""
        return "" if token_id in self._left_out else self._decoder.decode(self._token_bytes(token_id))

    def unspoken(self, token_id: int) -> str:
        """How a token that is left out is written, empty for any other."""
        return self._token_bytes(token_id).decode(errors="replace") if token_id in self._left_out else ""

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character whose bytes never came."""
        return self._decoder.decode(b"", final=True)
