"""What tests of structured output share: a tokenizer of bytes, random replies under a grammar, and how grammars are
refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

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
    """Every byte is a token, and so are some texts; two are special. May lose a leading space, as sentencepiece's
    do."""

    eos_token_ids = (END,)
    bos_token_id = None
    vocab_size = SPECIAL + 1

    def __init__(self, strips: bool = False) -> None:
        self.strips = strips

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else [*MERGED, b"<end>", b"abc"][token - 256]

    def encode(self, text: str | bytes, add_special_tokens: bool = False) -> list[int]:
        return [*(text.encode() if isinstance(text, str) else text)]

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        return TextStream(lambda token: b"" if token in (END, SPECIAL) else self.token_bytes(token), self.strips)


def tokenizer(strips: bool = False) -> Any:
    return Bytes(strips)


def request(grammars: Grammars, grammar: Grammar, strips: bool = False, **sampling: Any) -> Sequence:
    params = SamplingParams(**{"max_tokens": 3000, "temperature": 1.0, "grammar": grammar} | sampling)
    return Sequence([1], params, tokenizer(strips), frozenset({END}), 10_000, grammar=grammars.start(grammar))


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


def validates(value: Any, schema: Any) -> bool:
    """JSON schema's rules for the keywords that the tests use."""
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "object": dict,
        "array": list,
        "null": type(None),
    }
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if value not in schema.get("enum", [value]) or not all(validates(value, s) for s in schema.get("allOf", [])):
        return False
    if "anyOf" in schema and not any(validates(value, s) for s in schema["anyOf"]):
        return False
    if isinstance(value, str):
        fits = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9)
        return fits and bool(re.search(schema.get("pattern", ""), value))
    if isinstance(value, list):
        fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9)
        return fits and all(validates(v, schema.get("items", {})) for v in value)
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        extra = {k: v for k, v in value.items() if k not in inner}
        if set(schema.get("required", [])) - set(value) or (
            extra and schema.get("additionalProperties", True) is False
        ):
            return False
        return all(validates(v, inner.get(k, {})) for k, v in value.items())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (
            schema.get("minimum", -1e99) <= value <= schema.get("maximum", 1e99)
            and value % schema.get("multipleOf", value or 1) == 0
        )
    return True


def assert_refused(grammars: Grammars, make: Callable[[], Grammar], message: str) -> None:
    """In one line and at once, whether it is made or started."""
    start = time.perf_counter()
    with pytest.raises(InvalidInputError, match=message) as caught:
        grammars.start(make())
    assert str(caught.value).startswith("grammar: ") and "\n" not in str(caught.value)
    assert time.perf_counter() - start < 10
