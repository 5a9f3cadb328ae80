"""Replies that call functions: each call is one of those allowed, whatever the model wants, and text stays free."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.engine.grammar.replies import SPECIAL, accepts, assert_refused, reply, request, tokenizer, validates
from tinyllm.engine.grammar.grammar import Grammar, may_be_untagged
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.openai.tool_calls import ToolCallParser

pytest.importorskip("llguidance")
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "next": {"$ref": "#"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTIONS = {"weather": Grammar.arguments(CITY), "now.utc": Grammar.json_object()}
ROME = '{"name": "weather", "arguments": {"city": "Rome"}}'
OSLO = '{"name":"weather","parameters":{"city":"Oslo","next":{"city":"Rome"}}}'
ANY = '{"name": "now.utc", "arguments": {"tag": "</tool_call>"}}'
CALLED = [
    f"<tool_call>\n{ROME}\n</tool_call>",
    f"<tool_call>{ANY}</tool_call>",
    ROME,
    OSLO,
    ANY.replace(", ", ",\n  "),
]
TWICE = [f"<tool_call>\n{ROME}\n</tool_call>\n<tool_call>\n{ANY}\n</tool_call>", f"[{ROME}, {OSLO}]"]
WRONG = [
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"city": "Rome", "x": 1}}</tool_call>',
    '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
    "<tool_call>later",
    '{"name": "weather", "parameters": {"city": "Paris"}}',
    '[{"name": "weather", "parameters": {}}]',
    '<|python_tag|> {"name": "weather", "arguments": null}',
]
LIKE_CALLS = [
    '{"name": "rm", "arguments": {}}',
    '{"arguments": {}, "name": "weather"}',
    '{"name": "w\\u0065ather", "arguments": {}}',
    '{"type": "function", "function": {"name": "weather", "arguments": {}}}',
    '[{"arguments": {}, "name": "weather"}]',
    '[{"name": "rm"}, {"name": "weather", "arguments": {}}]',
    '{"name": "weather"}',
]
TEXTS = [*LIKE_CALLS, "", "Hello.", '{"answer": {"name": 1}}', "a <tool_cal", 'Say {"name": "rm"}.', "[1, 2]", "\n\nno"]


CLOSED = Grammar.json_schema({"type": "object", "properties": {"name": {}, "n": {}}, "additionalProperties": False})
OPEN = Grammar.json_object()
OTHERS = [Grammar.choice(["yes", "no"]), Grammar.choice(["{}", '{"name": 1}']), Grammar.regex(r"[a-z <>_/{}]*")]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("text", [False, True, CLOSED, OPEN, *OTHERS])
def test_what_a_reply_may_be(grammars: Grammars, text: Grammar | bool, several: bool) -> None:
    """Calls that are right, and its text, in which the parser finds no call."""
    grammar = Grammar.calls(FUNCTIONS, text, several)
    untagged = isinstance(text, bool) or may_be_untagged(text)
    for called in CALLED + TWICE:
        wanted = (several or called in CALLED) and (called[0] == "<" or untagged)
        alone = isinstance(text, Grammar) and accepts(grammars, text, called)
        assert accepts(grammars, grammar, called) == (wanted or alone), called
    for said in WRONG + TEXTS:
        alone = said in TEXTS if text is True else isinstance(text, Grammar) and accepts(grammars, text, said)
        alone = alone and "<tool_call>" not in said
        assert accepts(grammars, grammar, said) == alone, said
        if alone and said:
            parser = ToolCallParser(FUNCTIONS, form="exact" if untagged else "tagged")
            assert parser.push(said, last=True) == [said]
    if text is True:
        assert accepts(grammars, grammar, f"\n<|python_tag|> {ROME}")


def test_other_texts_follow_their_own_grammar(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}
    grammar = Grammar.calls(FUNCTIONS, Grammar.json_schema(schema | {"additionalProperties": False}))
    for said in ('{"name": "weather", "n": 3}', '{"n":1}', "{ }", '{"name": "weather"}'):
        assert accepts(grammars, grammar, said), said
    for said in ('{"name": "weather", "m": 3}', "Hello.", '{"name": 3}'):
        assert not accepts(grammars, grammar, said), said


def test_text_and_calls_take_turns(grammars: Grammars) -> None:
    mixed = f"Let me see.\n{CALLED[0]} Then:\n{CALLED[1]}\nDone <3"
    assert accepts(grammars, Grammar.calls(FUNCTIONS, True), mixed)
    once = Grammar.calls(FUNCTIONS, True, several=False)
    assert accepts(grammars, once, mixed.partition(" Then")[0]) and not accepts(grammars, once, mixed)


@pytest.mark.parametrize("text", [False, True])
def test_every_call_in_a_random_reply_obeys_its_schema(text: bool) -> None:
    compiler, called = Grammars(tokenizer()), 0
    names = {"weather": CITY, "now.utc": {"type": "object"}}
    for seed in range(30):
        tested = request(compiler, Grammar.calls(FUNCTIONS, text), seed=seed, max_tokens=600)
        if text:  # a model that likes to call: its first tokens are drawn from the way there
            for token in b" <tool_call>" if seed % 2 else b' {"name"':
                logits = np.zeros(SPECIAL + 1, np.float32)
                logits[token] = 1e6
                tested.advance(logits)
        said = reply(tested, seed)
        begun = ("<tool_call>" if seed % 2 else '{"name"') if text else ""
        parser = ToolCallParser(names, form="exact")
        parts: list[Any] = parser.push(begun + said, last=True)
        if tested.finish_reason == "stop":
            assert parser.count or text, said
            calls = [part for part in parts if not isinstance(part, str)]
            for index in range(parser.count):
                name = next(part.name for part in calls if part.index == index and part.name)
                arguments = "".join(part.arguments for part in calls if part.index == index)
                assert validates(json.loads(arguments), names[name]), said
                called += 1
    assert called >= 10


@pytest.mark.parametrize("schema", [False, {"type": "string"}, {"type": ["array", "null"]}])
def test_arguments_are_objects(grammars: Grammars, schema: Any) -> None:
    assert_refused(grammars, lambda: Grammar.arguments(schema), 'schema.type: expected "object", as arguments are one')


@pytest.mark.parametrize(
    "schema", [True, {}, {"nullable": True}, {"type": ["object", "string"]}, {"$ref": "#/$defs/a"}]
)
def test_arguments_take_no_other_value(grammars: Grammars, schema: Any) -> None:
    """A recursive schema, to which no keyword can be added, among them."""
    node = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}
    grammar = Grammar.arguments(schema | {"$defs": {"a": node}} if isinstance(schema, dict) else schema)
    taken = [text for text in ("{}", '{"a":{}}', "null", '"a"', "[]", "3") if accepts(grammars, grammar, text)]
    assert taken == ["{}", '{"a":{}}']
