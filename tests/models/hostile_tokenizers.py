"""A generator of `tokenizer.json` files with whatever the tokenizers package knows, and how each must end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tinyllm.errors import TinyllmError
from tinyllm.models.text.token_text import byte_alphabet
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder

SECONDS, LINE = 5, 2000
COUNTS = [0, 1, 2, 3, 255, 65_536, 2**31 - 1, 2**32 - 1, 2**63]
TEXTS = [
    "",
    "a",
    "The 1st cat's naïve: \n\n\t中 {x} == 12345 ",
    "a" * 3000,
    " " * 3000,
    "a b" * 700,
    "\0<s>\U0001f600é" * 300,
]
_COUNTS = st.sampled_from(COUNTS)
_OTHERS: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 2**32, 2**64, 10**400, 1.5, "", "x" * 5000, "\n", [], [[]], {}, "é", ["a"]]
)
_STRINGS = st.sampled_from(
    ["a", "", " ", "\u2581", "aa", "b", "\u2581\u2581", "\0", "é", "aaaa" * 64, "x" * 5000, "<s>", "\U0001f600"]
)
_CHARACTERS = st.sampled_from(["a", " ", "\u2581", "\0", "\U0001f600"])
_PATTERNS = st.one_of(
    st.sampled_from(
        [
            *[
                "a",
                ".",
                "",
                "a*",
                "(a+)+b",
                "(a|aa)+$",
                "( +)+[^ ]x",
                r"\s+(?!\S)|\s+",
                r"(.*)*\1x",
                "(?=a)*",
                "[",
                "(?<=a+)",
                r"\p{L}+",
            ],
            *[
                "(a*)*b",
                "a{100000}",
                "(a{1,1000}){1,1000}",
                "(?:a?){30}a{30}",
                "x*" * 12 + "y",
                r"(\w+)(\w+)(\w+)(\w+)#",
                r"\K",
                "(?>a+)b",
            ],
            *[
                "(" * 300 + "a" + ")" * 300,
                "a|" * 3000,
                "(?i)é",
                r"\X+",
                "(?~ab)",
                r"\g<0>?a",
                "[^ ]" * 2000,
                r"^\s*[\r\n]*$",
                "[a&&[^b]]*",
            ],
        ]
    ),
    st.text("ab.*+?|()[]^$\\ws{},12 ", max_size=12),
)
_PATTERN = st.one_of(_PATTERNS.map(lambda found: {"Regex": found}), _STRINGS.map(lambda found: {"String": found}))
_BEHAVIORS = st.sampled_from(["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
_SCHEMES = st.sampled_from(["always", "never", "first"])
_FLAG = st.booleans()


def _part(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


def _sequences(field: str, steps: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A step, or several, or one many times, or sequences in sequences."""
    several = st.one_of(
        st.lists(steps, max_size=4), st.tuples(steps, st.sampled_from([2, 8, 33, 3000])).map(lambda p: [p[0]] * p[1])
    )

    def nested(p: tuple[Any, int]) -> Any:
        for _ in range(p[1]):
            p = {"type": "Sequence", field: [p[0]]}, p[1]
        return p[0]

    sequence = several.map(lambda parts: {"type": "Sequence", field: parts})
    return st.one_of(st.none(), steps, sequence, st.tuples(steps, st.sampled_from([2, 30, 90])).map(nested))


_CHARSMAPS = st.sampled_from(["BAAAAAAAAAAAYQA=", "AAAA", "/////w==", "A" * 4000])
NORMALIZERS = _sequences(
    "normalizers",
    st.one_of(
        _part("Replace", pattern=_PATTERN, content=_STRINGS),
        _part("Prepend", prepend=_STRINGS),
        _part("Precompiled", precompiled_charsmap=_CHARSMAPS),
        _part("BertNormalizer", clean_text=_FLAG, handle_chinese_chars=_FLAG, strip_accents=_FLAG, lowercase=_FLAG),
        _part("Strip", strip_left=_FLAG, strip_right=_FLAG),
        *map(_part, ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "StripAccents", "ByteLevel"]),
    ),
)
PRE_TOKENIZERS = _sequences(
    "pretokenizers",
    st.one_of(
        _part("Split", pattern=_PATTERN, behavior=_BEHAVIORS, invert=_FLAG),
        _part("ByteLevel", add_prefix_space=_FLAG, trim_offsets=_FLAG, use_regex=_FLAG),
        _part("Metaspace", replacement=_CHARACTERS, prepend_scheme=_SCHEMES, split=_FLAG),
        _part("FixedLength", length=_COUNTS),
        _part("CharDelimiterSplit", delimiter=_CHARACTERS),
        _part("Punctuation", behavior=_BEHAVIORS),
        _part("Digits", individual_digits=_FLAG),
        *map(_part, ["Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts"]),
    ),
)
DECODERS = _sequences(
    "decoders",
    st.one_of(
        _part("Replace", pattern=_PATTERN, content=_STRINGS),
        _part("Metaspace", replacement=_CHARACTERS, prepend_scheme=_SCHEMES, split=_FLAG),
        _part("Strip", content=_CHARACTERS, start=_COUNTS, stop=_COUNTS),
        _part("WordPiece", prefix=_STRINGS, cleanup=_FLAG),
        *map(_part, ["ByteFallback", "Fuse"]),
    ),
)
_USUAL_DECODER = st.just({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False})
_TOKEN = st.one_of(_STRINGS, st.sampled_from(["\u0120", "<0x41>", "<unk>", "ab"]))
_IDS = st.sampled_from([0, 1, 5, 256, 300, 10**6, 2**31, 2**32 - 1])
_BYTES = {character: index for index, character in enumerate(byte_alphabet())}
_MERGED = {"ab": 256, "aa": 257, "<unk>": 258, "<s>": 259, "b": 1, "\u2581": 260}
_VOCABULARIES = st.one_of(
    st.just(_BYTES), st.dictionaries(_TOKEN, _IDS, max_size=4).map(lambda more: _BYTES | _MERGED | more)
)
_MERGES = st.lists(st.sampled_from([["a", "b"], ["a", "a"], ["b", ""], ["é", "a"], "a b", "a b c"]), max_size=3)
MODELS = st.one_of(
    _part(
        "BPE",
        vocab=_VOCABULARIES,
        merges=st.one_of(st.just([]), _MERGES),
        unk_token=st.one_of(st.none(), _TOKEN),
        byte_fallback=_FLAG,
        fuse_unk=_FLAG,
        ignore_merges=_FLAG,
        dropout=st.sampled_from([None, None, 0.0, 0.5, 1.0]),
        continuing_subword_prefix=st.one_of(st.none(), _STRINGS),
        end_of_word_suffix=st.one_of(st.none(), _STRINGS),
    ),
    _part("WordLevel", vocab=_VOCABULARIES, unk_token=_TOKEN),
    _part(
        "WordPiece",
        vocab=_VOCABULARIES,
        unk_token=_TOKEN,
        continuing_subword_prefix=_STRINGS,
        max_input_chars_per_word=_COUNTS,
    ),
    _part(
        "Unigram",
        vocab=st.lists(st.tuples(_TOKEN, st.sampled_from([0.0, -1.0, 1e308, -1e308, 5e-324])).map(list), max_size=5),
        unk_id=st.one_of(st.none(), _IDS),
        byte_fallback=_FLAG,
    ),
)
_SPECIAL = st.fixed_dictionaries(
    {"id": _TOKEN, "ids": st.lists(_IDS, max_size=3), "tokens": st.lists(_TOKEN, max_size=3)}
)
_TEMPLATE = st.lists(
    st.sampled_from(
        [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 2**32 - 1}},
        ]
    ),
    max_size=4,
)
PROCESSORS = st.one_of(
    st.none(),
    _part(
        "TemplateProcessing",
        single=st.one_of(_TEMPLATE, _TEMPLATE.map(lambda t: t * 2000)),
        pair=_TEMPLATE,
        special_tokens=st.dictionaries(st.sampled_from(["<s>", "a"]), _SPECIAL, max_size=2),
    ),
    _part("BertProcessing", sep=st.tuples(_TOKEN, _IDS).map(list), cls=st.tuples(_TOKEN, _IDS).map(list)),
    _part("ByteLevel", add_prefix_space=_FLAG, trim_offsets=_FLAG, use_regex=_FLAG),
    _part("Sequence", processors=st.lists(_part("ByteLevel", add_prefix_space=_FLAG, trim_offsets=_FLAG), max_size=3)),
)
_ADDED = st.fixed_dictionaries(
    {
        "id": _IDS,
        "content": _TOKEN,
        **dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized", "special"], _FLAG),
    }
)
_WHOLE = st.fixed_dictionaries(
    {
        "version": st.just("1.0"),
        "added_tokens": st.one_of(st.just([]), st.lists(_ADDED, max_size=4)),
        "normalizer": st.one_of(st.none(), NORMALIZERS),
        "pre_tokenizer": PRE_TOKENIZERS,
        "post_processor": PROCESSORS,
        "decoder": st.one_of(*[_USUAL_DECODER] * 3, DECODERS),
        "model": MODELS,
    }
)


def _spoiled(parts: tuple[Any, str, str, Any]) -> Any:
    """A file in which something has another value, or is not there."""
    whole, part, field, value = parts
    if not isinstance(whole[part], dict) or field not in whole[part]:
        return whole | {part: value}
    return whole | {
        part: {key: value if key == field else old for key, old in whole[part].items() if value or key != field}
    }


_FIELDS = st.sampled_from(
    ["type", "pattern", "content", "vocab", "merges", "unk_token", "single", "special_tokens", ""]
)
_PARTS = st.sampled_from(["normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "added_tokens"])
FILES = st.one_of(*[_WHOLE] * 5, st.tuples(_WHOLE, _PARTS, _FIELDS, _OTHERS).map(_spoiled))
"""Whole files, most of them well-formed."""
SETTINGS = st.dictionaries(
    st.sampled_from(["bos_token", "eos_token", "add_bos_token", "additional_special_tokens", "added_tokens_decoder"]),
    st.one_of(
        _OTHERS,
        _TOKEN,
        st.dictionaries(st.sampled_from(["0", "300", "content", "x"]), st.one_of(_OTHERS, _ADDED), max_size=2),
    ),
    max_size=2,
)
"""What `tokenizer_config.json` says beside it."""


def survive_tokenizer(folder: Path, file: Any, settings: Any) -> str:
    """Read a tokenizer, and have it encode and decode some texts; the error that ended it."""
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    began, message = time.process_time(), ""
    try:
        made = tokenizer_from_folder(folder, {}, {})
        for text in TEXTS:
            try:
                ids = made.encode(text, add_special_tokens=True)
                made.decode(ids)
                made.decode(ids, skip_special_tokens=False)
            except TinyllmError as error:
                message = _line(error)
        assert made.vocab_size >= 0 and made.longest_token >= 16
    except TinyllmError as error:
        message = _line(error)
    took = time.process_time() - began
    assert took < SECONDS, f"{took} s"
    return message


def _line(error: TinyllmError) -> str:
    message = str(error)
    assert len(message) < LINE and "\n" not in message, message
    return message
