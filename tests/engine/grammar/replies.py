"""What tests of structured output share: a tokenizer of bytes, random replies under a grammar, and how grammars are
refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError
from tinyllm.models.text.token_text import TextStream

MERGED = [b'{"', b'":', b'",', b'"}', b"}}", b"ab", b"abc", b"12", b" a", b"\n  "]
MERGED += ["é".encode(), "日".encode()[:2], b"true", b"null", b"],["]
END, SPECIAL = 256 + len(MERGED), 257 + len(MERGED)


class Bytes:
    """Every byte is a token, and so are some texts; two are special."""

    eos_token_ids = (END,)
    bos_token_id = None
    vocab_size = SPECIAL + 1

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else [*MERGED, b"<end>", b"abc"][token - 256]

    def encode(self, text: str | bytes, add_special_tokens: bool = False) -> list[int]:
        return [*(text.encode() if isinstance(text, str) else text)]

    def showing(self, texts: Collection[str]) -> Bytes:
        return self

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        return TextStream(self.token_bytes, (END, SPECIAL))


def tokenizer() -> Any:
    return Bytes()


def request(grammars: Grammars, grammar: Grammar, **sampling: Any) -> Sequence:
    params = SamplingParams(**{"max_tokens": 3000, "temperature": 1.0, "grammar": grammar} | sampling)
    return Sequence([1], params, tokenizer(), frozenset({END}), 10_000, grammar=grammars.start(grammar))


def reply(tested: Sequence, seed: int) -> str:
    """The text that comes of random logits."""
    random, text = np.random.default_rng(seed), ""
    while tested.finish_reason is None:
        logits = (
            random.standard_normal(SPECIAL + 20).astype(np.float32) * 3
        )  # more logits than tokens, as in a padded model
        logits[SPECIAL] += 9
        text += tested.advance(logits).text
    return text


def parsed(text: str) -> Any:
    """The value of a JSON text; numbers that float64 lacks are its largest, as JSON has no limit."""
    return json.loads(text, parse_float=lambda number: min(max(float(number), -1e300), 1e300))


def validates(value: Any, schema: Any) -> bool:
    """Whether a value is valid, formats included, as a validator of JSON schemas has it."""
    return bool(jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(value))


def accepts(grammars: Grammars, grammar: Grammar, text: str) -> bool:
    """Whether a whole reply, byte by byte, is one that the grammar allows."""
    state = grammars.start(grammar)
    for byte in text.encode():
        if not state.mask()[byte]:
            return False
        state.accept(byte)
    return state.may_end


def assert_refused(grammars: Grammars, make: Callable[[], Grammar], message: str) -> None:
    """In one line and at once, whether it is made or started."""
    start = time.perf_counter()
    with pytest.raises(InvalidInputError, match=message) as caught:
        grammars.start(make())
    assert str(caught.value).startswith("grammar: ") and "\n" not in str(caught.value)
    assert time.perf_counter() - start < 10


def without_other_keys(schema: Any) -> Any:
    """A schema in which each object that names properties, and says nothing of others, takes no others."""
    if isinstance(schema, list):
        return [without_other_keys(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: without_other_keys(inner) for key, inner in schema.items()}
    says_others = {"additionalProperties", "patternProperties", "propertyNames"} & {*schema}
    names_some = isinstance(schema.get("properties"), dict) and not says_others
    return {"additionalProperties": False} | closed if names_some else closed
