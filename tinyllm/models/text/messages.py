"""Messages as chat templates read them, from the forms in which clients have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tinyllm.errors import invalid, quoted
from tinyllm.models.text.call_tags import BEGIN, END
from tinyllm.models.text.chat_template import check_messages
from tinyllm.models.text.json_text import check_shape

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of what a model thought before its reply. Templates read one of them, servers send another."""


def template_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages for a template: keys whose value is None are as if left out, texts in parts are one text, the arguments
    of calls are objects, reasoning has each of its names, and OpenAI's role `developer` is `system`. Other keys stay
    as they are.

    Raises `InvalidInputError` for a message that is no object or has no role, a part that is no text, and arguments
    that are no JSON object.
    """
    check_messages(messages)
    return [_template_message(message, f"messages.{index}") for index, message in enumerate(messages)]


def without_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `template_messages` as templates without tools take them: calls and results are texts. Results that follow
    one another are one message, so that the roles take turns."""
    texts: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        text = message.get("content", "")
        if message["role"] == "tool":
            text = f"<tool_response>\n{text}\n</tool_response>"
            if index and messages[index - 1]["role"] == "tool":
                texts[-1]["content"] += f"\n{text}"
            else:
                texts.append({"role": "user", "content": text})
        elif "tool_calls" in message:
            calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message["tool_calls"]]
            written = [*([text] if text else []), *(f"{BEGIN}\n{call}\n{END}" for call in calls)]
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            texts.append(rest | {"content": "\n".join(written)})
        else:
            texts.append(message)
    return texts


def _template_message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    rendered = {key: value for key, value in message.items() if value is not None}
    if isinstance(rendered.get("content"), list):
        rendered["content"] = _joined(rendered["content"], where)
    if rendered["role"] == "developer":
        rendered["role"] = "system"
    if rendered["role"] == "assistant":
        rendered.setdefault("content", "")
    calls = rendered.pop("tool_calls", None)
    if calls:
        rendered["tool_calls"] = [_template_call(call, where, number) for number, call in enumerate(calls)]
    reasoning = next((rendered[name] for name in REASONING if name in rendered), None)
    return rendered if reasoning is None else dict.fromkeys(REASONING, reasoning) | rendered


def _joined(parts: list[Any], where: str) -> str:
    """The text of parts, each of which stands on lines of its own."""
    texts = []
    for number, part in enumerate(parts):
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise invalid(where, f"content.{number}", "a text, or an object with one", quoted(part))
        texts.append(text)
    return "\n".join(texts)


def _template_call(call: Any, where: str, number: int) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise invalid(where, f"tool_calls.{number}", "an object", quoted(call))
    function = call.get("function")
    if not isinstance(function, Mapping):  # some templates read a call that has its name and arguments itself
        return dict(call)
    field = f"tool_calls.{number}.function.arguments"
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        check_shape(arguments.encode(errors="replace"), f"{where}: {field}")
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise invalid(where, field, "JSON", quoted(arguments)) from error
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping):
        raise invalid(where, field, "a JSON object", quoted(function["arguments"]))
    rendered = {"type": "function", "function": {"name": function.get("name"), "arguments": arguments}}
    return rendered if call.get("id") is None else {"id": call["id"], **rendered}
