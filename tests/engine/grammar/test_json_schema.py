"""Replies under a JSON schema validate, and a schema that cannot be enforced is refused with the place."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.grammar.replies import SPECIAL, assert_refused, reply, request, validates
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.private_engine import run
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError

pytest.importorskip("llguidance")


def objects(inner: Any) -> Any:
    """Schemas of objects of some schemas."""
    return st.dictionaries(st.sampled_from(["a", "name", "é", 'q"']), inner, max_size=3).flatmap(
        lambda p: st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.just(p),
                "additionalProperties": st.just(False),
                "required": st.lists(st.sampled_from([*p]), unique=True) if p else st.just([]),
            }
        )
    )


plain = st.one_of(
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    st.sampled_from(
        [
            {"type": "string", "pattern": "^[a-c]{2,4}$"},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["x", 3, None, [1]]},
        ]
    ),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-200, 200),
        st.integers(0, 900),
    ),
    st.just({"type": "integer", "minimum": 0, "maximum": 500, "multipleOf": 7}),
    st.just({"type": "number", "minimum": -2.5, "maximum": 17}),
)
schemas = st.recursive(
    plain,
    lambda inner: st.one_of(
        objects(inner),
        st.lists(inner, min_size=1, max_size=2).map(lambda s: {"anyOf": s}),
        st.builds(
            lambda s, n: {"type": "array", "items": s, "minItems": n, "maxItems": n + 2}, inner, st.integers(0, 2)
        ),
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150)
@given(schemas, st.integers(0, 99))
def test_a_reply_under_a_schema_validates(grammars: Grammars, schema: Any, seed: int) -> None:
    tested = request(grammars, Grammar.json_schema(schema), seed=seed)
    text = reply(tested, seed)
    assert tested.finish_reason == "stop" and SPECIAL not in tested.generated
    assert validates(json.loads(text), schema), text


@pytest.mark.parametrize("seed", range(5))
def test_any_object_parses(grammars: Grammars, seed: int) -> None:
    tested = request(grammars, Grammar.json_object(), max_tokens=20_000)
    assert isinstance(json.loads(reply(tested, seed)), dict)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grammar.json_schema("{bad"), "schema: expected JSON, got .* at line 1, column 2"),
        (lambda: Grammar.json_schema('{"maximum": NaN}'), "schema: expected JSON, got NaN"),
        (lambda: Grammar.json_schema("[" * 100_000), "schema: expected at most 64 levels"),
        (lambda: Grammar.json_schema('{"items":' * 500 + "{}" + "}" * 500), "schema: expected at most 64 levels"),
        (lambda: Grammar.json_schema({"enum": {1, 2}}), "schema: expected values of JSON"),
        (lambda: Grammar.json_schema(3), "schema: expected a schema"),
        (lambda: Grammar.json_schema({"type": "text"}), 'schema.type: expected one of .*, got "text"'),
        (
            lambda: Grammar.json_schema({"properties": {"a": {"maxLength": "3"}}}),
            r'schema.properties.a.maxLength: expected .*, got "3"',
        ),
        (
            lambda: Grammar.json_schema({"anyOf": [{}, {"maximum": 10**400}]}),
            r"schema.anyOf\[1\].maximum: expected a number",
        ),
        (lambda: Grammar.json_schema({"items": {"pattern": "(x"}}), "schema.items: .*unclosed group"),
        (
            lambda: Grammar.json_schema({"properties": {"a": {"items": {"$ref": "#/b"}}}}),
            "schema.properties.a.items: .*'/b' does not exist",
        ),
        (lambda: Grammar.json_schema({"$ref": "#"}), "schema: expected one that some text"),
        (lambda: Grammar.json_schema(False), "schema: "),
        (lambda: Grammar.json_schema({"$ref": "http://a/b"}), r"schema.\$ref: expected a place in this schema"),
        (
            lambda: Grammar.json_schema({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}),
            "multipleOf: expected numbers whose common",
        ),
        (lambda: Grammar.json_schema({"minProperties": 2}), "schema.minProperties: expected at most 1"),
    ],
)
def test_bad_schemas_are_refused_with_the_place(grammars: Grammars, make: Any, message: str) -> None:
    assert_refused(grammars, make, message)


@pytest.mark.parametrize(
    "keyword",
    ["if", "contains", "dependentRequired", "unevaluatedProperties", "x-guidance", "misspelt"],
)
def test_a_keyword_that_cannot_be_enforced_is_refused_by_name(keyword: str) -> None:
    message = f"schema.$defs.a.{keyword}: expected a keyword that can be enforced, got '{keyword}'"
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        Grammar.json_schema({"$defs": {"a": {keyword: {}}}})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"uniqueItems": True}, "schema.uniqueItems: expected items of an enum"),
        ({"uniqueItems": True, "items": {"type": "string"}, "maxItems": 2}, "schema.uniqueItems: expected items of an"),
        ({"uniqueItems": True, "items": {"enum": [1, 1.5]}}, "schema.uniqueItems: expected items of an enum"),
        ({"uniqueItems": True, "items": {"enum": [*"abcdefgh"]}}, "schema.uniqueItems: expected at most 2000 arrays"),
        ({"propertyNames": {"format": "time"}}, "schema.propertyNames: expected an enum, a const"),
        ({"propertyNames": {"pattern": "a", "minLength": 2}}, "schema.propertyNames: expected an enum, a const"),
        ({"propertyNames": {"pattern": "a"}, "properties": {"b": {}}}, "schema.propertyNames: expected an enum or"),
        ({"propertyNames": {"pattern": "a"}, "patternProperties": {"b": {}}}, "schema.propertyNames: expected no"),
        ({"$ref": "#/default", "default": {"enum": 3}}, "schema: #/default.enum: expected a list of values"),
        (
            {"propertyNames": {"$ref": "#/properties"}, "properties": {"enum": {}}},
            "schema: #/properties.enum: expected a list of values",
        ),
        ({"items": {"not": {"type": "null"}}}, "schema.items.not: expected a keyword that can be enforced, which"),
        ({"items": {"$id": "a", "items": {"$ref": "#"}}}, r"schema.items.\$id: expected it at the top"),
        ({"type": "string", "format": "uri-reference"}, "schema.format: expected one of date-time"),
        ({"type": "string", "format": "regex"}, "schema.format: expected one of date-time"),
    ],
)
def test_what_a_keyword_can_say_beyond_a_grammar_is_refused(grammars: Grammars, schema: Any, message: str) -> None:
    assert_refused(grammars, lambda: Grammar.json_schema(schema), message)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_smollm2_replies_under_a_schema(smollm2_path: Path, temperature: float) -> None:
    from tinyllm.llm import load

    pytest.importorskip("torch")
    llm = load(smollm2_path, "torch")
    people = {"type": "integer", "minimum": 0, "maximum": 10**8}
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": people},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    prompt = llm.encode("Describe Paris as JSON with its city and people.")
    with ThreadPoolExecutor(2) as executor:
        compiler = Grammars(llm.tokenizer, executor)
        requests = []
        for grammar in (Grammar.json_schema(schema), Grammar.choice(["Paris", "London"]), None):
            most = 100 if grammar else 20
            params = SamplingParams(max_tokens=most, temperature=temperature, seed=1, grammar=grammar)
            state = compiler.start(grammar) if grammar else None
            requests.append(
                Sequence(list(prompt), params, llm.tokenizer, llm.stop_token_ids, llm.context, grammar=state)
            )
        texts = ["", "", ""]
        for number, piece in run(llm.engine(4096), requests):
            texts[number] += piece.text
    assert validates(json.loads(texts[0]), schema), texts[0]
    assert texts[1] in ("Paris", "London")
    assert requests[0].finish_reason == requests[1].finish_reason == "stop"
