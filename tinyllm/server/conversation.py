"""From the messages and tools of a request to the prompt of a model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.llm import LLM
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.server.schema import Assistant, Content, Message, Tool, ToolSpec
from tinyllm.server.tool_calls import BEGIN, END

_INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within {begin}{end} XML tags:
{begin}
{{"name": <function-name>, "arguments": <args-json-object>}}
{end}"""


def prompt_text(
    llm: LLM, messages: Sequence[Message], tools: Sequence[ToolSpec], add_generation_prompt: bool = True
) -> str:
    """The text that the model is given.

    Raises:
        InvalidInputError: messages that do not belong together, or that the template does not take.
        UnsupportedError: the model has no chat template.
    """
    template = llm.chat_template
    if template is None:
        raise UnsupportedError("messages: this model has no chat template; use /v1/completions")
    _check_calls(messages)
    specs = [tool.model_dump(exclude_none=True) for tool in tools]
    if takes_tools(template):
        rendered = [_native(m, i) for i, m in enumerate(messages)]
        return _checked(template.render(rendered, add_generation_prompt=add_generation_prompt, tools=specs or None))
    plain = [_plain(m, i) for i, m in enumerate(messages)]
    if specs:
        told = _INTRODUCTION.format(
            tools="\n".join(json.dumps(s, ensure_ascii=False) for s in specs), begin=BEGIN, end=END
        )
        if plain[0]["role"] == "system":
            plain[0] = {"role": "system", "content": f"{plain[0]['content']}\n\n{told}"}
        else:
            plain.insert(0, {"role": "system", "content": told})
    return _checked(template.render(_joined(plain), add_generation_prompt=add_generation_prompt))


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            "messages: expected valid Unicode in them and in tools, got a lone surrogate"
        ) from error
    return text


def takes_tools(template: ChatTemplate) -> bool:
    """Whether a model's own template writes tools into the prompt."""
    return any(re.search(r"\btools\b", source) for source in template.templates.values())


def text_of(content: Content | None) -> str:
    """The text of a message; parts are put on lines of their own."""
    if isinstance(content, list):
        return "\n".join(part.text for part in content)
    return content or ""


def _check_calls(messages: Sequence[Message]) -> None:
    """Every result of a tool belongs to a call before it; a model's message says something, or calls."""
    known: set[str] = set()
    for index, message in enumerate(messages):
        if isinstance(message, Assistant):
            if message.content is None and not message.tool_calls:
                raise InvalidInputError(
                    f"messages.{index}.content: expected a text, as there are no tool_calls, got none"
                )
            known |= {call.id for call in message.tool_calls or ()}
        elif isinstance(message, Tool) and message.tool_call_id not in known:
            raise InvalidInputError(
                f"messages.{index}.tool_call_id: expected the id of a call in a message before it, got "
                f"{message.tool_call_id!r:.80}"
            )


def _calls(message: Assistant, index: int) -> list[dict[str, Any]]:
    found = []
    for number, call in enumerate(message.tool_calls or ()):
        place = f"tool_calls.{number}.function.arguments"
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise invalid(f"messages.{index}", place, "JSON", f"{call.function.arguments!r:.80}") from error
        if not isinstance(arguments, dict):
            raise invalid(f"messages.{index}", place, "a JSON object", f"{call.function.arguments!r:.80}")
        found.append({"name": call.function.name, "arguments": arguments})
    return found


def _native(message: Message, index: int) -> dict[str, Any]:
    """As templates with tools take it: arguments are objects."""
    role = "system" if message.role == "developer" else message.role
    found: dict[str, Any] = {"role": role, "content": text_of(message.content)}
    if isinstance(message, Assistant) and message.tool_calls:
        ids = [call.id for call in message.tool_calls]
        calls = _calls(message, index)
        found["tool_calls"] = [
            {"id": i, "type": "function", "function": call} for i, call in zip(ids, calls, strict=True)
        ]
    if isinstance(message, Tool):
        found["tool_call_id"] = message.tool_call_id
    return found


def _plain(message: Message, index: int) -> dict[str, Any]:
    """As templates without tools take it: calls and their results are text."""
    text = text_of(message.content)
    if isinstance(message, Assistant):
        calls = [f"{BEGIN}\n{json.dumps(call, ensure_ascii=False)}\n{END}" for call in _calls(message, index)]
        return {"role": "assistant", "content": "\n".join([*([text] if text else []), *calls])}
    if isinstance(message, Tool):
        return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>", "result": True}
    return {"role": "system" if message.role == "developer" else message.role, "content": text}


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of several calls in one message, so that roles take turns."""
    found: list[dict[str, Any]] = []
    results = False
    for message in messages:
        is_result = "result" in message
        if is_result and results:
            found[-1]["content"] += "\n" + message["content"]
        else:
            found.append({"role": message["role"], "content": message["content"]})
        results = is_result
    return found
