"""Replies that call functions, as rules of the dialect of Lark that llguidance reads.

A call is `{"name": ..., "arguments": {...}}` (Llama says `parameters`). It is the whole reply, alone or in a list, or
stands between tags, as Hermes and Qwen models write it. Which of these forms a model was trained on, it knows itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tinyllm.models.text.call_tags import BEGIN, END

PYTHON_TAG = "<|python_tag|>"
"""May precede an untagged call of Llama models; most tokenizers have it as a special token, which is no text."""
WHITESPACE = r" |\n[ \t]{0,24}"
"""Between the parts of JSON: enough for one line, and for indented lines; without a bound a model may write spaces for
ever."""
_ANY = "/(?s:.*)/"
_COLON, _COMMA = 'space? ":" space?', 'space? "," space?'
_TAGGED = f'space? call space? "{END}"'


def call_rules(arguments: Mapping[str, str], several: bool, text: str | None, untagged: bool) -> str:
    """Rules whose first one, `body`, is a reply: calls, or what another rule says.

    Args:
        arguments: for each function the term of its arguments.
        several: whether there may be more than one call.
        text: the rule for replies without calls; None: a reply calls.
        untagged: whether a call may be the whole reply.
    """
    tagged = f'"{BEGIN}" {_TAGGED}'
    bodies = [f"({tagged} space?)+" if several else tagged]
    if untagged:
        bodies += ["call", f'"[" space? call {_list_end(several)}']
    if text is not None:
        bodies.append(text)
    return joined({"body": " | ".join(bodies)} | _rules(arguments))


def free_rules(arguments: Mapping[str, str], several: bool) -> str:
    """Rules whose first one, `body`, is any text in which all calls are right. Arguments as in `call_rules`."""
    # a lexeme of free text takes all that it can: a call begins with a lexeme that such text cannot be
    names = [re.escape(json.dumps(name)).replace("/", r"\/") for name in arguments]
    begun = _untagged("|".join(names), r"(\[\s*)?")
    no_call = f"({_ANY} & ~/(?s:{begun}.*)/)"
    untagged = [f"/{_untagged(name)}/ value_{number}" for number, name in enumerate(names)]
    for number, name in enumerate(names):
        bracketed = _untagged(name, r"\[\s*")
        untagged.append(f"/{bracketed}/ value_{number} {_list_end(several)}")
    rules = {
        "body": f"TEXT | untagged | first_tag {_TAGGED}" + (f" (next_tag {_TAGGED})* REST" if several else ""),
        "TEXT": no_call,
        "untagged": " | ".join(untagged),
        "first_tag[lazy]": f'{no_call} "{BEGIN}"',
    }
    if several:
        rules |= {"next_tag[lazy]": f'{_ANY} "{BEGIN}"', "REST": _ANY}
    return joined(rules | _rules(arguments))


def _rules(arguments: Mapping[str, str]) -> dict[str, str]:
    """`call`, and the rules that it needs."""
    rules = {
        "call": r'"{" space? "\"name\"" rest',
        "rest": " | ".join(f"rest_{number}" for number in range(len(arguments))),
        "key": r'"\"arguments\"" | "\"parameters\""',
        "space": f"/{WHITESPACE}/",
    }
    for number, (name, term) in enumerate(arguments.items()):
        rules[f"rest_{number}"] = f"{_COLON} {json.dumps(json.dumps(name))} {_COMMA} key value_{number}"
        rules[f"value_{number}"] = f'{_COLON} arguments_{number} space? "}}"'
        rules[f"arguments_{number}"] = term
    return rules


def _untagged(name: str, bracket: str = "") -> str:
    """The beginning of an untagged call, up to its arguments, as a regular expression. bracket: what precedes it."""
    tag = re.escape(PYTHON_TAG)
    return rf'\s*({tag}\s*)?{bracket}\{{\s*"name"\s*:\s*({name})\s*,\s*"(arguments|parameters)"'


def _list_end(several: bool) -> str:
    return (f"({_COMMA} call)* " if several else "") + 'space? "]"'


def joined(rules: Mapping[str, str]) -> str:
    """Rules by name as one text."""
    return "\n".join(f"{name}: {rule}" for name, rule in rules.items())
