"""The tokenizer of a folder in Hugging Face form: `tokenizer.json`, or another file with a vocabulary, and what
`tokenizer_config.json` says besides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tokenizers

from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.files import read_json_if_there
from tinyllm.models.families.ranges import is_integer
from tinyllm.models.text.sentencepiece import CONTROL, UNKNOWN
from tinyllm.models.text.sentencepiece_file import read_sentencepiece
from tinyllm.models.text.tekken import TEKKEN_NAMES, tekken_backend
from tinyllm.models.text.tiktoken_file import is_tiktoken, tiktoken_backend
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.tokenizer_bounds import library_errors
from tinyllm.models.text.tokenizer_file import check_added, read_tokenizer

SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MORE_SPECIALS = ("additional_special_tokens", "extra_special_tokens")
_DIGITS = 10
_ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_from_folder(folder: Path, config: Mapping[str, Any], generation_config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a folder. What `tokenizer_config.json` leaves unsaid is as `tokenizer.json` has it.

    Raises `CheckpointError` where a file is missing or not understood.
    """
    path, settings = _file(folder), tokenizer_settings(folder)
    kind = _kind(path)
    if kind == "tiktoken":
        backend = tiktoken_backend(path, settings)
    else:
        backend = {"sentencepiece": _sentencepiece, "tekken": tekken_backend, "json": read_tokenizer}[kind](path)
    where = str(folder / "tokenizer_config.json")
    _add_tokens(backend, settings, where)
    bos = _id_of(settings.get("bos_token"), backend, f"{where}: bos_token")
    if "bos_token" not in settings and is_integer("token id", config.get("bos_token_id")):
        bos = config["bos_token_id"]
    stops = [_id_of(settings.get("eos_token"), backend, f"{where}: eos_token")]
    for name, source in (("generation_config.json", generation_config), ("config.json", config)):
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(is_integer("token id", token) for token in ids):
            raise CheckpointError(f"{folder / name}: eos_token_id: expected token ids, got {quoted(value)}")
        stops += ids
    eos = [stop for stop in dict.fromkeys(stops) if stop is not None]
    adds_bos, adds_eos = _flag(settings, "add_bos_token", where), _flag(settings, "add_eos_token", where)
    made = Tokenizer(backend, str(path), bos, eos, adds_bos, adds_eos)
    made.check_speed()
    return made


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file with a vocabulary."""
    return _file(folder).exists()


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, and where it lists no added tokens the older files that did: `special_tokens_map.json`
    and `added_tokens.json`. Sentencepiece and tekken files name their special tokens themselves, unless these do."""
    settings = read_json_if_there(folder / "tokenizer_config.json")
    path = _file(folder)
    kind = _kind(path)
    if kind == "sentencepiece":
        settings = {**read_sentencepiece(path)[1], **settings}
    elif kind == "tekken":
        settings = {**TEKKEN_NAMES, **settings}
    if "added_tokens_decoder" in settings:
        return settings
    settings |= read_json_if_there(folder / "special_tokens_map.json")
    added = read_json_if_there(folder / "added_tokens.json")
    return settings | {"added_tokens_decoder": {str(index): {"content": token} for token, index in added.items()}}


def special_token(value: Any, where: str) -> str | None:
    """A special token as `tokenizer_config.json` gives it: a string, an object with `content`, or null."""
    content = value.get("content") if isinstance(value, Mapping) else value
    if content is not None and not isinstance(content, str):
        raise CheckpointError(f"{where}: expected a token, got {quoted(value)}")
    return content


def _file(folder: Path) -> Path:
    """The file with the vocabulary: `tokenizer.json` wherever there is one, and the name of an error where none is."""
    whole = folder / "tokenizer.json"
    others = (folder / "tokenizer.model", folder / "tekken.json", *sorted(folder.glob("*.tiktoken")))
    others += (folder / "tiktoken.model",)
    return whole if whole.exists() else next((path for path in others if path.exists()), whole)


def _kind(path: Path) -> Literal["json", "sentencepiece", "tekken", "tiktoken"]:
    if path.name == "tekken.json":
        return "tekken"
    if path.suffix not in (".model", ".tiktoken"):
        return "json"
    return "tiktoken" if path.suffix == ".tiktoken" or is_tiktoken(path) else "sentencepiece"


def _sentencepiece(path: Path) -> tokenizers.Tokenizer:
    model, _ = read_sentencepiece(path)
    with library_errors(f"{path}: expected a model of the tokenizers package, got"):
        backend = model.backend()
    special = [piece for piece, its in zip(model.pieces, model.types, strict=True) if its in (CONTROL, UNKNOWN)]
    backend.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in special])
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], where: str) -> None:
    """Add the tokens that only the settings know, and make special those that they name as such."""
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, Mapping) and listed is not None:
        raise CheckpointError(f"{where}: added_tokens_decoder: expected tokens by id, got {quoted(listed)}")
    wrong = next((key for key in listed or () if not (key.isdecimal() and len(key) <= _DIGITS)), None)
    if wrong is not None:
        raise CheckpointError(f"{where}: added_tokens_decoder: expected a token id, got {quoted(wrong)}")
    field = f"{where}: added_tokens_decoder"
    tokens = {key: _added_token(value, f"{field}: {key}") for key, value in (listed or {}).items()}
    _add(backend, [tokens[key] for key in sorted(tokens, key=int)], where)
    for key, token in tokens.items():
        index = backend.token_to_id(token.content)
        if index != int(key):
            raise CheckpointError(f"{field}: {key}: expected the id of {quoted(token.content)}, which is {index}")
    fields = [(name, settings.get(name)) for name in SPECIALS]
    fields += [(name, value) for name in _MORE_SPECIALS for value in _several(settings.get(name))]
    more: list[tokenizers.AddedToken] = []
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    for name, value in fields:
        if value in (None, ""):
            continue
        token = _added_token(value, f"{where}: {name}", special=True)
        if token.content in known:
            continue
        if name in ("bos_token", "eos_token") and backend.token_to_id(token.content) is None:
            raise CheckpointError(f"{where}: {name}: expected a token of the vocabulary, got {quoted(token.content)}")
        more.append(token)
    _add(backend, more, where, special=True)


def _add(backend: tokenizers.Tokenizer, tokens: list[tokenizers.AddedToken], where: str, special: bool = False) -> None:
    """Add tokens, all at once, as the package goes over all that it has each time."""
    check_added(backend, [(token.content, token.normalized) for token in tokens], where)
    with library_errors(f"{where}: expected tokens for the tokenizers package, got"):
        (backend.add_special_tokens if special else backend.add_tokens)(tokens)


def _added_token(value: Any, where: str, special: bool = False) -> tokenizers.AddedToken:
    flags = {"normalized": not special, "special": special}
    flags |= {name: value[name] for name in _ADDED_FLAGS if name in value} if isinstance(value, Mapping) else {}
    content = special_token(value, where)
    if not content or not all(isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"{where}: expected a token with true or false for its flags, got {quoted(value)}")
    return tokenizers.AddedToken(content, **flags)


def _several(value: Any) -> list[Any]:
    """Special tokens as a list, or as an object of names."""
    return [*value.values()] if isinstance(value, Mapping) else value if isinstance(value, list) else []


def _id_of(value: Any, backend: tokenizers.Tokenizer, where: str) -> int | None:
    content = special_token(value, where)
    return None if content is None else backend.token_to_id(content)


def _flag(settings: Mapping[str, Any], key: str, where: str) -> bool | None:
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{where}: {key}: expected true or false, got {quoted(value)}")
    return value
