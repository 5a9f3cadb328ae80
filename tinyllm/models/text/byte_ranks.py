"""Vocabularies of bytes in the order in which they are merged, as tiktoken and Mistral's tekken have them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import tokenizers
from tokenizers import decoders, models, normalizers

from tinyllm.models.text.pre_tokenizers import PreTokenizer
from tinyllm.models.text.token_text import byte_alphabet

_MOST_CUTTING = 10**9


def byte_rank_backend(ids: Mapping[bytes, int], cuts: PreTokenizer, special: Mapping[str, int]) -> tokenizers.Tokenizer:
    """The tokenizer of a vocabulary of bytes.

    Args:
        ids: of the tokens; the lower an id, the earlier its token is merged.
        cuts: how a text is cut before it is merged. A piece that is a token is that one, whatever its parts.
        special: ids of tokens that are taken whole. They are in the model, but the caller says which of them are shown.

    Raises what the tokenizers package does, and `ValueError` for bytes without a token, or tokens that are too long.
    """
    missing = next((byte for byte in range(256) if bytes([byte]) not in ids), None)
    if missing is not None:
        raise ValueError(f"no token for the byte {missing:#04x}")
    if sum(len(token) ** 2 for token in ids) > _MOST_CUTTING:
        raise ValueError("tokens so long that cutting each at each place takes too long")
    spelling = {byte: char for char, byte in byte_alphabet().items()}
    spelled = {token: "".join([spelling[byte] for byte in token]) for token in ids}
    vocabulary = {spelled[token]: index for token, index in ids.items()} | dict(special)
    made = tokenizers.Tokenizer(models.BPE(vocabulary, _merges(ids, spelled), ignore_merges=True))
    made.pre_tokenizer = cuts.build()
    if cuts.nfc:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    return made


def decoded(token: str) -> bytes:
    """The bytes of a token in base64. Raises `ValueError` for another text, and for no bytes."""
    try:
        found = base64.b64decode(token, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64, got {token!r:.40}") from error
    if not found:
        raise ValueError("expected bytes, got an empty token")
    return found


def _merges(ids: Mapping[bytes, int], spelled: Mapping[bytes, str]) -> list[tuple[str, str]]:
    """Each way to make a token of two others, in the order of what they make: so the pair that makes the earliest token
    is merged first, as with tiktoken."""
    merges = []
    for token in sorted(ids, key=ids.__getitem__):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                merges.append((spelled[left], spelled[right]))
    return merges
