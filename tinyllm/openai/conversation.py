"""From the messages and tools of a request to the prompt of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tinyllm.errors import InvalidInputError, UnsupportedError, quoted
from tinyllm.llm import LLM
from tinyllm.models.text.call_tags import BEGIN, END
from tinyllm.models.text.chat_prompt import TemplateOptions, chat_prompt
from tinyllm.models.text.messages import REASONING, template_messages
from tinyllm.openai.schema import Assistant, Message, Tool, ToolSpec

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
    llm: LLM, messages: Sequence[Message], tools: Sequence[ToolSpec], options: TemplateOptions | None = None
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
    rendered = template_messages([message.model_dump(exclude_none=True) for message in messages])
    knows_tools = template.uses("tools")
    if specs and not knows_tools:
        lines = "\n".join(json.dumps(spec, ensure_ascii=False) for spec in specs)
        introduction = _INTRODUCTION.format(tools=lines, begin=BEGIN, end=END)
        if rendered[0]["role"] == "system":
            rendered[0]["content"] += f"\n\n{introduction}"
        else:
            rendered.insert(0, {"role": "system", "content": introduction})
    text = chat_prompt(template, rendered, options or TemplateOptions(), (specs or None) if knows_tools else None)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            "messages: expected valid Unicode in them and in tools, got a lone surrogate"
        ) from error
    return text


def encode_text(llm: LLM, text: str, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a text. Raises `InvalidInputError` where it has more characters than the context's tokens can be of,
    before any of them is looked at."""
    most = llm.context * llm.tokenizer.longest_token
    if len(text) > most:
        raise InvalidInputError(
            f"prompt: has {len(text)} characters, of which at most {most} fit into the context of {llm.context} tokens"
        )
    return llm.tokenizer.encode(text, add_special_tokens)


def _check_calls(messages: Sequence[Message]) -> None:
    """Every result of a tool has its call before it, and every message of the model a text, a call or a thought."""
    call_ids: set[str] = set()
    for index, message in enumerate(messages):
        if isinstance(message, Assistant):
            said = message.tool_calls or (message.model_extra or {}).keys() & {*REASONING}
            if message.content is None and not said:
                raise InvalidInputError(
                    f"messages.{index}.content: expected a text, as there are no tool_calls, got none"
                )
            call_ids |= {call.id for call in message.tool_calls or ()}
        elif isinstance(message, Tool) and message.tool_call_id not in call_ids:
            raise InvalidInputError(
                f"messages.{index}.tool_call_id: expected the id of a call in a message before it, got "
                f"{quoted(message.tool_call_id)}"
            )
