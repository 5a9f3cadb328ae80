"""Replies that call functions in other forms than Hermes' and Llama's, as rules of the dialect of Lark that llguidance
reads: JSON behind a tag, or arguments key by key. Which one a model writes, its chat template shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm.engine.grammar.call_keys import KeyForm, rules_by_key, shared_rules
from tinyllm.engine.grammar.calls import WHITESPACE, joined
from tinyllm.models.text.call_tags import BEGIN, END

_LINE = "NEWLINE?"


@dataclass(frozen=True)
class HeldForm:
    """A form of calls.

    shows: texts that all stand in the chat template of a model that writes it. begin: what precedes a call, or the list
    of all calls. end: what follows. call: a call, with `{name}` and `{arguments}` of a function. listed: whether calls
    stand in a list, which `opens` begins, and not one by one. keys: how arguments are written that have no quotes.
    """

    shows: tuple[str, ...]
    begin: str
    end: str
    call: str
    listed: bool = True
    opens: str = '"["'
    keys: KeyForm | None = None


def _object(name: str, arguments: str, before: str = "") -> str:
    """A call as a JSON object."""
    head = rf'"{{" space? {before}"\"{name}\"" space? ":" space? "\"{{name}}\"" space? "," space?'
    return rf'{head} "\"{arguments}\"" space? ":" space? {{arguments}} space? "}}"'


_CALL = _object("name", "arguments")
_WITH_ID = r'"\"tool_call_id\"" space? ":" space? /"[0-9]{1,3}"/ space? "," space? '
FORMS = {
    "mistral": HeldForm(("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]", "", '"{name}[ARGS]" {arguments}', listed=False),
    "mistral_list": HeldForm(("[TOOL_CALLS]",), "[TOOL_CALLS]", "", _CALL),
    "cohere": HeldForm(
        ("<|START_ACTION|>",), "<|START_ACTION|>", "<|END_ACTION|>", _object("tool_name", "parameters", _WITH_ID)
    ),
    "phi": HeldForm(("<|tool_call|>", "<|/tool_call|>"), "<|tool_call|>", "<|/tool_call|>", _CALL),
    "granite": HeldForm(("<|tool_call|>",), "<|tool_call|>", "", _CALL),
    "functools": HeldForm(("functools[",), "functools[", "", _CALL, opens='""'),
    "qwen_xml": HeldForm(
        ("<function=", "<parameter="),
        BEGIN,
        END,
        f'{_LINE} "<function={{name}}>\\n" {{arguments}} "</function>" {_LINE}',
        listed=False,
        keys=KeyForm(("<parameter=", ">\n"), "\n</parameter>\n", ("</parameter", "<parameter=", "</function")),
    ),
    "glm": HeldForm(
        ("<arg_key>", "<arg_value>"),
        BEGIN,
        END,
        f'"{{name}}" {_LINE} {{arguments}}',
        listed=False,
        keys=KeyForm(("<arg_key>", "</arg_key>\n<arg_value>"), "</arg_value>\n", ("</arg_value", "</tool_call")),
    ),
}
"""By name; the first whose texts a template shows is the model's."""
FORM_TAGS = tuple(sorted({tag for form in FORMS.values() for tag in (form.begin, form.end) if tag} | {"[ARGS]"}))
"""Some tokenizers have them as special tokens."""


def form_of(templates: Collection[str]) -> str:
    """The form that a model's chat templates show; empty: Hermes' and Llama's."""
    for name, form in FORMS.items():
        if any(all(text in template for text in form.shows) for template in templates):
            return name
    return ""


def form_rules(
    form: HeldForm, schemas: Mapping[str, Any], term: Callable[[Any], str], several: bool, text: str | bool
) -> str:
    """Rules whose first one, `body`, is a reply.

    Args:
        schemas: of each function's arguments.
        term: of JSON that a schema validates.
        several: whether there may be more than one call.
        text: the rule for replies without calls; True: any text, which calls may follow; False: a reply calls.
    """
    rules = {"call": " | ".join(f"call_{number}" for number in range(len(schemas)))}
    for number, (name, schema) in enumerate(schemas.items()):
        arguments = f"arguments_{number}"
        by_key = rules_by_key(schema, arguments, form.keys, term) if form.keys else {arguments: term(schema)}
        call = form.call if by_key is not None else _CALL  # JSON between the same tags
        rules[f"call_{number}"] = call.replace("{name}", name).replace("{arguments}", arguments)
        rules |= by_key or {arguments: term(schema)}
    begin, end = json.dumps(form.begin), f" {json.dumps(form.end)}" if form.end else ""
    if form.listed:
        more = '(space? "," space? call)*' if several else ""
        calls = f'{form.opens} space? call {more} space? "]"{f" space?{end}" if end else ""}'
    else:
        calls = f"space? call space?{end}" if end else "call"
        calls += f" (space? {begin} {calls})*" if several else ""
    rules["calls"] = calls
    rules |= {"space": f"/{WHITESPACE}/", "NEWLINE": r"/\n/"} | (shared_rules(form.keys) if form.keys else {})
    if text is True:
        return joined({"body": "TEXT | first calls", "TEXT": _ANY, "first[lazy]": f"{_ANY} {begin}"} | rules)
    return joined({"body": f"{begin} calls" + (f" | {text}" if text else "")} | rules)


_ANY = "/(?s:.*)/"
