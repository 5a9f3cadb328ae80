"""`tokenizer.model`: a sentencepiece model in its own form, a message of protocol buffers.

Source: the encoding of protocol buffers and sentencepiece's `sentencepiece_model.proto`, by whose numbers fields go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.files import read_file
from tinyllm.models.text.sentencepiece import NORMAL, USER_DEFINED, Sentencepiece

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SPACE_AFTER, _BYTE_FALLBACK, _UNK, _BOS, _EOS = 3, 24, 35, 40, 41, 42
_CHARSMAP, _ADD_PREFIX, _COLLAPSE, _ESCAPE = 2, 3, 4, 5
_MODELS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


def read_sentencepiece(path: Path) -> tuple[Sentencepiece, dict[str, str]]:
    """The model in a `tokenizer.model`, and which of its pieces are `bos_token`, `eos_token` and `unk_token`.

    Raises `CheckpointError` for a file that is no sentencepiece model, or one of a kind that is not done.
    """
    try:
        model, ids = _model(read_file(path), path)
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path}: expected a sentencepiece model, got another file") from error
    return model, {name: model.pieces[index] for name, index in ids.items() if 0 <= index < len(model.pieces)}


def _model(data: bytes, path: Path) -> tuple[Sentencepiece, dict[str, int]]:
    """The model, and the ids of its tokens that have names, below 0 where it has none."""
    message = _message(data)
    entries = [_message(entry) for entry in message.get(_PIECES, [])]
    trainer, normalizer = (_message(b"".join(message.get(part, []))) for part in (_TRAINER, _NORMALIZER))
    pieces = [_last(entry, _TEXT, b"").decode() for entry in entries]
    types = [_last(entry, _TYPE, NORMAL) for entry in entries]
    kind = _MODELS.get(_last(trainer, _MODEL_TYPE, 1))
    if kind not in ("unigram", "bpe"):
        raise CheckpointError(f"{path}: model_type: expected unigram or bpe, got {kind}")
    if _last(trainer, _SPACE_AFTER, 0) or not _last(normalizer, _ESCAPE, 1):
        raise CheckpointError(f"{path}: expected spaces before words, as a character of pieces, got another way")
    if len({*pieces}) != len(pieces) or not pieces:
        raise CheckpointError(f"{path}: pieces: expected each once, got {'one twice' if pieces else 'none'}")
    ids = {
        "unk_token": _last(trainer, _UNK, 0),
        "bos_token": _last(trainer, _BOS, 1),
        "eos_token": _last(trainer, _EOS, 2),
    }
    if ids["unk_token"] >= len(pieces):
        raise CheckpointError(f"{path}: unk_id: expected an id below {len(pieces)}, got {ids['unk_token']}")
    model = Sentencepiece(
        pieces,
        [struct.unpack("<f", _last(entry, _SCORE, bytes(4)))[0] for entry in entries],
        types,
        unknown=ids["unk_token"] if ids["unk_token"] >= 0 else None,
        unigram=kind == "unigram",
        byte_fallback=bool(_last(trainer, _BYTE_FALLBACK, 0)),
        add_prefix=bool(_last(normalizer, _ADD_PREFIX, 1)),
        collapse_spaces=bool(_last(normalizer, _COLLAPSE, 1)),
        charsmap=_last(normalizer, _CHARSMAP, b""),
        whole=tuple(piece for piece, its in zip(pieces, types, strict=True) if its == USER_DEFINED),
    )
    return model, ids


def _last(message: dict[int, list[Any]], field: int, default: Any) -> Any:
    """A field that is there once; of several the last counts. Numbers are signed. Raises `ValueError` for one that is
    of another type than its default."""
    value = message.get(field, [default])[-1]
    if type(value) is not type(default):
        raise ValueError(f"field {field} is of another type")
    return value - (1 << 64) if isinstance(value, int) and value >> 63 else value


def _message(data: bytes) -> dict[int, list[Any]]:
    """The fields of a message by number: a number for a varint, bytes for all else."""
    fields: dict[int, list[Any]] = {}
    for field, value in _fields(data):
        fields.setdefault(field, []).append(value)
    return fields


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield field, value
            continue
        if wire == 2:
            length, place = _varint(data, place)
        else:
            length = {1: 8, 5: 4}.get(wire, len(data))  # other wire types are of no use in files: past the end
        if place + length > len(data):
            raise ValueError("a field goes past the end")
        yield field, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """(a number of 7 bits a byte, the lowest first; the place after it)"""
    number = shift = 0
    while shift < 64:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number & (1 << 64) - 1, place
    raise ValueError("a number of more than 64 bits")
