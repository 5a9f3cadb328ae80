"""Schemas as zod and pydantic write them: what comes out validates, what validates can come out."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.grammar.client_schemas import DOCUMENTS, NODE, NULLABLE, SCHEMAS
from tests.engine.grammar.replies import (
    accepts,
    assert_refused,
    parsed,
    reply,
    request,
    validates,
    without_other_keys,
)
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.errors import InvalidInputError

pytest.importorskip("llguidance")


def in_any_order(document: Any) -> list[Any]:
    """A document, and the same with its keys in other orders: replies have theirs in that of the schema."""
    if isinstance(document, dict):
        return [dict(items) for items in itertools.permutations(document.items())]
    return [document]


def assert_same_values(grammars: Grammars, schema: Any, judged: Any) -> None:
    """The grammar takes those of many documents that a validator takes, and random replies under it validate."""
    grammar = Grammar.json_schema(schema)
    taken = 0
    for document in DOCUMENTS:
        valid = validates(document, judged)
        found = [accepts(grammars, grammar, json.dumps(d, separators=(",", ":"))) for d in in_any_order(document)]
        assert any(found) == valid, document
        taken += valid
    assert taken, "no document shows what the schema takes"
    for seed in range(8):
        tested = request(grammars, grammar, seed=seed, max_tokens=400)
        text = reply(tested, seed)
        if tested.finish_reason == "stop":
            assert validates(parsed(text), judged), text


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_values_are_those_of_a_validator(grammars: Grammars, name: str) -> None:
    # OpenAPI wants a discriminator to be there, which its schemas do not say
    tag = {"required": ["a"]} if "left out" in name else {}
    closed = SCHEMAS[name] if name == "all of" else without_other_keys(SCHEMAS[name])
    assert_same_values(grammars, SCHEMAS[name], closed | tag)


@pytest.mark.parametrize("name", NULLABLE)
def test_nullable_takes_null_too(grammars: Grammars, name: str) -> None:
    schema, judged = NULLABLE[name]
    node = json.loads(json.dumps(NODE).replace('"#"', '"#/$defs/N"'))
    if name == "an object":
        schema = node
    assert_same_values(grammars, {"$defs": {"N": node}, **schema, "nullable": False}, {"$defs": {"N": node}, **schema})
    assert_same_values(
        grammars,
        {"$defs": {"N": node}, **schema, "nullable": True},
        judged | {"$defs": {"N": node}},
    )


def test_schemas_in_schemas_do_not_multiply(grammars: Grammars) -> None:
    """Names, of which each would have a schema of its own, and arrays, which are written out."""
    schema: Any = {"type": "integer"}
    for _ in range(40):
        schema = {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": schema}
    assert accepts(grammars, Grammar.json_schema(schema), '{"a":' * 40 + "1" + "}" * 40)
    sets = {name: {"type": "array", "items": {"enum": [*"abcde"]}, "uniqueItems": True} for name in "abcdefg"}
    assert_refused(grammars, lambda: Grammar.json_schema({"properties": sets}), "uniqueItems: expected at most 2000")


def schemas_of(inner: Any) -> Any:
    """Schemas of the keywords above, well formed, each keyword with what it may meet."""
    name = st.sampled_from(["a", "b", "v"])
    keywords: dict[str, Any] = {
        "type": st.sampled_from(["object", "array", "string", "integer", "null"]),
        "enum": st.lists(st.sampled_from(["a", "b", 1, None]), min_size=1, max_size=3),
        "properties": st.dictionaries(name, inner, max_size=2),
        "required": st.lists(name, max_size=2, unique=True),
        "additionalProperties": inner,
        "propertyNames": st.sampled_from([{"enum": ["a", "b"]}, {"type": "string"}, {"pattern": "^x"}]) | inner,
        "items": inner,
        "uniqueItems": st.booleans(),
        "minItems": st.integers(0, 2),
        "maxItems": st.integers(0, 3),
        "maxLength": st.integers(0, 2),
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "oneOf": st.lists(inner, min_size=1, max_size=2),
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "not": st.sampled_from([{}, False]),
        "$defs": st.fixed_dictionaries({"A": inner}),
        "$ref": st.sampled_from(["#", "#/$defs/A", "#/properties/a"]),
    }
    names = st.lists(st.sampled_from(sorted(keywords)), max_size=5, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: keywords[name] for name in chosen}))


@settings(deadline=None, max_examples=100)
@given(st.recursive(st.booleans() | st.just({}), schemas_of, max_leaves=8), st.data())
def test_a_schema_is_refused_or_held_as_it_is(grammars: Grammars, schema: Any, data: st.DataObject) -> None:
    try:
        grammar = Grammar.json_schema(schema)
        grammars.start(grammar)
        validates(None, schema)
    except (
        InvalidInputError,
        jsonschema_rs.ValidationError,
    ):  # refused, or a reference that leads nowhere where nobody follows it
        return
    for document in data.draw(st.lists(st.sampled_from(DOCUMENTS), min_size=15, max_size=15)):
        found = [accepts(grammars, grammar, json.dumps(d, separators=(",", ":"))) for d in in_any_order(document)]
        if any(found):
            assert validates(document, schema), document
        elif validates(document, without_other_keys(schema)):
            assert not validates(document, schema), document
    tested = request(grammars, grammar, seed=1, max_tokens=100)
    text = reply(tested, 1)
    assert tested.finish_reason == "length" or validates(parsed(text), schema), text
