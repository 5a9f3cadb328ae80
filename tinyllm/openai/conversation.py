"""From the messages and tools of a request to the prompt of a model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tinyllm.engine.grammar.calls import BEGIN, END
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.llm import LLM
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.openai.schema import Assistant, Content, Message, Tool, ToolSpec

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
    """The prompt, as the model's chat template writes it. A template that knows no tools gets them as text of its
    system message.

    Raises:
        InvalidInputError: messages that do not belong together, or that the template does not take.
        UnsupportedError: the model has no chat template.
    """
    template = llm.chat_template
    if template is None:
        raise UnsupportedError("messages: this model has no chat template; use /v1/completions")
    _check_calls(messages)
    # strict is for the sampler; models are trained on tools without it
    specs = [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools]
    if _takes_tools(template):
        rendered = [_with_calls(message, index) for index, message in enumerate(messages)]
        text = template.render(rendered, add_generation_prompt=add_generation_prompt, tools=specs or None)
    else:
        plain = _as_texts(messages)
        if specs:
            lines = "\n".join(json.dumps(spec, ensure_ascii=False) for spec in specs)
            introduction = _INTRODUCTION.format(tools=lines, begin=BEGIN, end=END)
            if plain[0]["role"] == "system":
                plain[0]["content"] += f"\n\n{introduction}"
            else:
                plain.insert(0, {"role": "system", "content": introduction})
        text = template.render(plain, add_generation_prompt=add_generation_prompt)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            "messages: expected valid Unicode in them and in tools, got a lone surrogate"
        ) from error
    return text


def _takes_tools(template: ChatTemplate) -> bool:
    """Whether a model's own template writes tools into the prompt."""
    return any(re.search(r"\btools\b", source) for source in template.templates.values())


def _check_calls(messages: Sequence[Message]) -> None:
    """Every result of a tool has its call before it, and every message of the model a text or a call."""
    call_ids: set[str] = set()
    for index, message in enumerate(messages):
        if isinstance(message, Assistant):
            if message.content is None and not message.tool_calls:
                raise InvalidInputError(
                    f"messages.{index}.content: expected a text, as there are no tool_calls, got none"
                )
            call_ids |= {call.id for call in message.tool_calls or ()}
        elif isinstance(message, Tool) and message.tool_call_id not in call_ids:
            raise InvalidInputError(
                f"messages.{index}.tool_call_id: expected the id of a call in a message before it, got "
                f"{message.tool_call_id!r:.80}"
            )


def _with_calls(message: Message, index: int) -> dict[str, Any]:
    """The message as templates that know tools take it: the arguments of a call are an object."""
    rendered: dict[str, Any] = {"role": _role(message), "content": _text(message.content)}
    if isinstance(message, Assistant) and message.tool_calls:
        functions = _called_functions(message, index)
        rendered["tool_calls"] = [
            {"id": call.id, "type": "function", "function": function}
            for call, function in zip(message.tool_calls, functions, strict=True)
        ]
    if isinstance(message, Tool):
        rendered["tool_call_id"] = message.tool_call_id
    return rendered


def _as_texts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as templates without tools take them: calls and results are texts. Results that follow one another
    are one message, so that the roles take turns."""
    texts: list[dict[str, str]] = []
    for index, message in enumerate(messages):
        text = _text(message.content)
        if isinstance(message, Assistant):
            calls = [
                f"{BEGIN}\n{json.dumps(function, ensure_ascii=False)}\n{END}"
                for function in _called_functions(message, index)
            ]
            texts.append({"role": "assistant", "content": "\n".join([*([text] if text else []), *calls])})
        elif isinstance(message, Tool):
            text = f"<tool_response>\n{text}\n</tool_response>"
            if index and isinstance(messages[index - 1], Tool):
                texts[-1]["content"] += f"\n{text}"
            else:
                texts.append({"role": "user", "content": text})
        else:
            texts.append({"role": _role(message), "content": text})
    return texts


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _text(content: Content | None) -> str:
    """The text of a message; each part of it stands on lines of its own."""
    if isinstance(content, list):
        return "\n".join(part.text for part in content)
    return content or ""


def _called_functions(message: Assistant, index: int) -> list[dict[str, Any]]:
    """`{name, arguments}` of each call of a message, arguments as an object. index: where the message stands."""
    functions = []
    for number, call in enumerate(message.tool_calls or ()):
        where, field = f"messages.{index}", f"tool_calls.{number}.function.arguments"
        text = call.function.arguments
        try:
            arguments = json.loads(text or "{}")
        except (ValueError, RecursionError) as error:
            raise invalid(where, field, "JSON", f"{text!r:.80}") from error
        if not isinstance(arguments, dict):
            raise invalid(where, field, "a JSON object", f"{text!r:.80}")
        functions.append({"name": call.function.name, "arguments": arguments})
    return functions
