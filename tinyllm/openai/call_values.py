"""Tool calls as JSON values: what a reply writes once it is read whole."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any


def parsed(text: str) -> Any:
    """The value that a text is as JSON; None for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def calls_of(value: Any, names: Collection[str], *, tagged: bool) -> list[tuple[str, str]]:
    """(name, arguments) of each call that a value is; none where a part of it is something else.

    names: of the tools that may be called. tagged: whether a tag said that it is a call, which may then state no
        arguments.
    """
    calls = []
    for item in value if isinstance(value, list) else [value]:
        call = item["function"] if isinstance(item, dict) and "function" in item else item
        if not isinstance(call, dict):
            return []
        name = call.get("name")
        if not isinstance(name, str) or name not in names:
            return []
        if not tagged and not {"arguments", "parameters"} & {*call}:
            return []  # an object that has a name
        arguments = call.get("arguments", call.get("parameters"))
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, (dict, str)):
            return []
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append((name, text or "{}"))
    return calls
