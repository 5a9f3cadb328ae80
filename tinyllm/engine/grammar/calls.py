"""Replies that call functions, as rules of the dialect of Lark that llguidance reads.

A call is `{"name": ..., "arguments": {...}}` (Llama says `parameters`). It is the whole reply, alone or in a list, or
stands between tags, as Hermes and Qwen models write it. Which of these forms a model was trained on, it knows itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

BEGIN, END = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
"""Precedes calls of Llama models; most tokenizers have it as a special token, which is no text."""
CALL_KEYS = ("name", "arguments", "parameters", "type", "function", "id")
"""Of objects that may be calls. A reply that begins with an object begins with a call, or its first key is another."""
WHITESPACE = r" |\n[ \t]{0,24}"
"""Between the parts of JSON: enough for one line, and for indented lines; without a bound a model may write spaces for
ever."""
_LIKE_A_CALL = rf'\s*(<\|python_tag\|>\s*)?(\[\s*)?\{{\s*"({"|".join(CALL_KEYS)})"'
_NO_CALL = rf"(/(?s:.*)/ & ~/(?s:{_LIKE_A_CALL}.*)/)"


def call_rules(arguments: Mapping[str, str], text: str | None, free: bool, several: bool) -> str:
    """Rules whose first one, `body`, is a reply.

    Args:
        arguments: for each function the term of its arguments.
        text: the name of a rule for replies that call nothing.
        free: whether a reply may also be any text, and calls may stand in it.
        several: whether there may be more than one call.
    """
    rules = {
        "call": r'"{" space? "\"name\"" rest',
        "rest": " | ".join(f"rest_{number}" for number in range(len(arguments))),
        "key": r'"\"arguments\"" | "\"parameters\""',
        "space": f"/{WHITESPACE}/",
    }
    for number, (name, term) in enumerate(arguments.items()):
        colon, comma = 'space? ":" space?', 'space? "," space?'
        value = f'{json.dumps(json.dumps(name))} {comma} key {colon} arguments_{number} space? "}}"'
        rules[f"rest_{number}"] = f"{colon} {value}"
        rules[f"arguments_{number}"] = term
    more = '(space? "," space? call)* space? "]"'
    if free:
        # a lexeme of free text takes all that it can: what begins a call has to be a lexeme that leaves it behind
        name = r'\{\s*"name"/'
        rules |= {
            "body": f'TEXT | bare | first_tag space? call space? "{END}"' + (" tagged* REST" if several else ""),
            "bare": rf"/\s*{name} rest" + (rf" | /\s*\[\s*{name} rest {more}" if several else ""),
            "first_tag[lazy]": f'{_NO_CALL} "{BEGIN}"',
            "TEXT": _NO_CALL,
        }
        if several:
            rules |= {
                "tagged": f'next_tag space? call space? "{END}"',
                "next_tag[lazy]": f'/(?s:.*)/ "{BEGIN}"',
                "REST": "/(?s:.*)/",
            }
    else:
        tagged = f'"{BEGIN}" space? call space? "{END}"'
        rules["body"] = " | ".join(["call", tagged, *([text] if text else [])])
        if several:
            rules["tagged"] = f"{tagged} space?"
            rules["body"] = " | ".join(["call", f'"[" space? call {more}', "tagged+", *([text] if text else [])])
    return "\n".join(f"{name}: {rule}" for name, rule in rules.items())
