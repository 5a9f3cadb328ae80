"""A tokenizer as the metadata of a GGUF file has it: byte-level BPE ("gpt2"), sentencepiece BPE by scores ("llama"), or
by merges ("gemma4").

A file has the name of a pre-tokenizer and no regular expressions, and scores in place of merges. What is made is read
back, and gives the tokens of the original for a text with most kinds of writing, or is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.gguf_header import GgufDraft
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf
from tinyllm.models.text.pre_tokenizers import PRE_TOKENIZERS
from tinyllm.models.text.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Sentencepiece
from tinyllm.models.text.token_text import SPACE
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.turn_ends import KNOWN_ENDS

UNUSED, BYTE = 5, 6
"""Further types of pieces: rows of the embedding that have no token, and bytes of what no piece spells."""
SAMPLE = (
    "It's a test, isn't it? WE'LL see: they'VE done 1 12 123 1234 12345 1234567890 3.14 1,000,000 x86_64\n"
    "camelCaseWords andHTTPServer snake_case  two   three    four\ttab\t\ttabs\n\n\nlines \n  indented\r\n\r\nend \n"
    "def f(x): return x**2 # ok!? (a+b)/c == d; $5 50% @you #tag <tag/> [1] {k: 'v'} \"q\" `c` ~^|\\ //\n/\n...!!! "
    "\u2026\u2014\u00ab\u00bb\u201c\u201d\n"
    "\u00fcber \u00c9t\u00e9 cafe\u0301 na\u00efve \u00dfx \u0130I\u0131 \u01c5 "
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac "
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629\u064f "
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u1781\u17d2\u1798\u17c2\u179a\n"
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u6f22\u5b57\u4eee\u540d\u307e\u3058\u308a\u30ab\u30ca "
    "\ud55c\uad6d\uc5b4 12\u500b \uff11\uff12 \u00bd \u00b2 \u2167 "
    "\U0001f642\U0001f44d\U0001f3fd\U0001f468\u200d\U0001f469\u200d\U0001f467 \u00a0\u3000x\u200bz"
)
"""Contractions, numbers, capitals, blanks, marks, code, and letters of many scripts."""
_SPECIALS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_ENDS = ("eos", "eot", "eom")
_PREFIX = "tokenizer.ggml."


def tokenizer_to_gguf(
    tokenizer: Tokenizer, template: ChatTemplate | None, rows: int, where: str
) -> tuple[dict[str, Any], list[str]]:
    """The metadata of a tokenizer and its chat templates, and what of it is otherwise in the file, as sentences.

    Args:
        rows: of the embedding; tokens are as many. where: what errors begin with.

    Raises `CheckpointError` for a tokenizer that GGUF has no form for.
    """
    state = json.loads(tokenizer.backend.to_str())
    if (kind := state["model"]["type"]) != "BPE":
        raise CheckpointError(f"{where}: tokenizer: expected BPE, which is written to GGUF, got {kind}")
    tokens, types = _tokens(state, rows, where)
    shared = {f"{_PREFIX}tokens": tokens, f"{_PREFIX}token_type": types, **_specials(tokenizer, template, state, where)}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in state["model"]["merges"]]
    forms = _byte_level(tokenizer, merges) if _is_byte_level(state) else _pieces(tokenizer, tokens, types, merges)
    for form in forms:
        metadata = shared | {f"{_PREFIX}{key}": value for key, value in form.items()}
        read = tokenizer_from_gguf(GgufDraft(Path(where), metadata, {}))
        if read.encode(SAMPLE, True) == tokenizer.encode(SAMPLE, True):
            return metadata | _templates(template), _differences(tokenizer, read)
    raise CheckpointError(
        f"{where}: tokenizer: expected tokens that a form of GGUF's gives, too, got others of a sample text"
    )


def _tokens(state: Mapping[str, Any], rows: int, where: str) -> tuple[list[str], list[int]]:
    """A token for each row of the embedding, and its type."""
    byte_fallback = state["model"].get("byte_fallback", False)
    by_id = {index: (token, NORMAL) for token, index in state["model"]["vocab"].items()}
    for index, (token, _) in by_id.items():
        if token == state["model"].get("unk_token"):
            by_id[index] = (token, UNKNOWN)
        elif byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            by_id[index] = (token, BYTE)
    for added in state["added_tokens"]:
        if by_id.get(added["id"], ("", NORMAL))[1] != UNKNOWN:
            by_id[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if (most := max(by_id)) >= rows:
        raise CheckpointError(f"{where}: tokenizer: expected ids below the {rows} rows of the embedding, got {most}")
    every = [by_id.get(index, (f"[PAD{index}]", UNUSED)) for index in range(rows)]
    return [token for token, _ in every], [its for _, its in every]


def _specials(
    tokenizer: Tokenizer, template: ChatTemplate | None, state: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The ids of tokens with a meaning, and what is put around a text."""
    ids: dict[str, int] = {}
    for name, key in _SPECIALS.items():
        token = template.special_tokens.get(name) if template else None
        index = None if token is None else tokenizer.backend.token_to_id(token)
        if index is not None:
            ids[key] = index
    unknown = state["model"].get("unk_token")
    if unknown is not None and (index := tokenizer.backend.token_to_id(unknown)) is not None:
        ids["unknown"] = index
    before, after = tokenizer.around
    bos = before[0] if before else tokenizer.bos_token_id
    if bos is not None:
        ids["bos"] = bos
    ends = list(dict.fromkeys([*after, *tokenizer.eos_token_ids]))
    names = {index: token for token, index in tokenizer.special_tokens.items()}
    known_last = sorted(ends[1:], key=lambda index: names.get(index) in KNOWN_ENDS)  # these end a turn unsaid
    ids |= dict(zip(_ENDS, [*ends[:1], *known_last], strict=False))
    if len(before) > 1 or len(after) > 1:
        got = [names.get(index, index) for index in (*before, *after)]
        raise CheckpointError(
            f"{where}: tokenizer: expected at most one token before a text and one after it, got {quoted(got)}"
        )
    flags = {"add_bos_token": bool(before), "add_eos_token": bool(after)}
    return {f"{_PREFIX}{key}_token_id": index for key, index in ids.items()} | {
        f"{_PREFIX}{key}": flag for key, flag in flags.items()
    }


def _is_byte_level(state: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps([state["pre_tokenizer"], state["decoder"]])


def _byte_level(tokenizer: Tokenizer, merges: list[Any]) -> Iterator[dict[str, Any]]:
    """A form for each pre-tokenizer that cuts the sample as the tokenizer does."""
    backend = tokenizer.backend
    whole_words = bool(getattr(backend.model, "ignore_merges", False))
    sample = SAMPLE if backend.normalizer is None else backend.normalizer.normalize_str(SAMPLE)
    cut = None if backend.pre_tokenizer is None else backend.pre_tokenizer.pre_tokenize_str(sample)
    for name, cuts in PRE_TOKENIZERS.items():
        if cuts.whole_words == whole_words and cuts.build().pre_tokenize_str(sample) == cut:
            yield {"model": "gpt2", "pre": name, "merges": [" ".join(merge) for merge in merges]}


def _pieces(tokenizer: Tokenizer, tokens: list[str], types: list[int], merges: list[Any]) -> Iterator[dict[str, Any]]:
    """By scores, where these have the very merges, and with the merges."""
    prefix = "".join(tokenizer.backend.encode("a", add_special_tokens=False).tokens).startswith(SPACE)
    scores = _scores(tokens, merges)
    told = {"scores": scores, "add_space_prefix": prefix}
    by_scores = Sentencepiece(tokens, scores, types, None).merges_by_score()
    if sorted(by_scores) == sorted(merges) and _in_turn(merges):
        yield {"model": "llama", "pre": "default"} | told
    if not prefix:
        yield {"model": "gemma4", "merges": [" ".join(merge) for merge in merges]} | told


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """Less by one for each whole that merges make, in their order; what none makes comes last."""
    ranks = {whole: rank for rank, whole in enumerate(dict.fromkeys(left + right for left, right in merges))}
    return [-float(ranks.get(token, len(ranks))) for token in tokens]


def _in_turn(merges: list[Any]) -> bool:
    """Whether all merges that make a whole come one after the other."""
    wholes = [left + right for left, right in merges]
    changes = sum(whole != before for whole, before in zip(wholes[1:], wholes, strict=False))
    return changes + 1 == len(set(wholes)) if wholes else True


def _differences(ours: Tokenizer, read: Tokenizer) -> list[str]:
    """What of added tokens and of ends is otherwise in the file."""
    found = []
    texts = {text: f"a {text} b" for text in ours.special_tokens if text in read.special_tokens}
    odd = [special for special, text in texts.items() if ours.encode(text) != read.encode(text)]
    if odd:
        found.append(
            f"blanks beside {quoted(odd[0])} become other tokens: GGUF cannot say what this tokenizer makes of them"
        )
    lost = {*ours.eos_token_ids} - {*read.eos_token_ids}
    names = {index: token for token, index in ours.special_tokens.items()}
    if unsaid := sorted(index for index in lost if names.get(index) not in KNOWN_ENDS):
        found.append(f"a GGUF file names at most {len(_ENDS)} tokens that end an answer: without {unsaid}")
    return found


def _templates(template: ChatTemplate | None) -> dict[str, Any]:
    if template is None:
        return {}
    named = {name: text for name, text in template.templates.items() if name != "default"}
    made: dict[str, Any] = {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
    if named:
        made["tokenizer.chat_templates"] = [*named]
    if "default" in template.templates:
        made["tokenizer.chat_template"] = template.templates["default"]
    return made
