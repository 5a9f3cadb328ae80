"""From a conversation to a prompt: the template's variables, and where its text is to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tinyllm.errors import InvalidInputError, invalid, quoted, shortened
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.messages import template_messages, without_calls

_MARK = "\uf8ff\uf8fe "
"""Stands at the end of the message that is continued. Its blank shows whether the template trims messages."""
_OWN_VARIABLES = ("messages", "tools", "add_generation_prompt")


@dataclass(frozen=True)
class TemplateOptions:
    """How a conversation becomes a prompt, besides its messages and tools.

    Args:
        chat_template_kwargs: variables of the template, such as `enable_thinking`.
        reasoning_effort: how much a model is to think before its reply, where its template knows that.
        add_generation_prompt: whether the prompt ends with the beginning of the model's turn. None: unless
            `continue_final_message`.
        continue_final_message: the prompt ends with the text of the last message, which the reply goes on with.

    Raises `InvalidInputError` for a value of another type, and for options that exclude one another.
    """

    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        given = self.chat_template_kwargs
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise InvalidInputError(f"chat_template_kwargs: expected names with values, got {quoted(given)}")
        for name in _OWN_VARIABLES:
            if name in given:
                raise invalid("chat_template_kwargs", name, "it as a field of its own", "it among the variables")
        effort = self.reasoning_effort
        if effort is not None and not isinstance(effort, str):
            raise InvalidInputError(f"reasoning_effort: expected a text, got {quoted(effort)}")
        for name, kinds in (("add_generation_prompt", (bool, type(None))), ("continue_final_message", (bool,))):
            if not isinstance(getattr(self, name), kinds):
                raise InvalidInputError(f"{name}: expected true or false, got {quoted(getattr(self, name))}")
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidInputError(
                "add_generation_prompt: expected false beside continue_final_message: true, got true"
            )

    @property
    def given(self) -> dict[str, Any]:
        """The options that are not as they are by default."""
        default = TemplateOptions()
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(default, name)}


def split_options(options: Mapping[str, Any]) -> tuple[TemplateOptions, dict[str, Any]]:
    """(what is for the chat template, the rest) of options by keyword; None is as if left out."""
    names = [entry.name for entry in fields(TemplateOptions)]
    chosen = {name: options[name] for name in names if options.get(name) is not None}
    return TemplateOptions(**chosen), {name: value for name, value in options.items() if name not in names}


def chat_prompt(
    template: ChatTemplate,
    messages: Sequence[Any],
    options: TemplateOptions,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The text that a conversation is to a model. Calls are written as texts where the template knows no tools.

    Raises:
        InvalidInputError: messages that the template does not take, or an option that it does not know.
    """
    variables = _variables(template, options)
    rendered = template_messages(messages)
    final = rendered[-1] if rendered else {}
    if not template.uses("tools"):
        rendered = without_calls(rendered)
    if not options.continue_final_message:
        begins_turn = options.add_generation_prompt is not False
        return template.render(rendered, add_generation_prompt=begins_turn, tools=tools, **variables)
    if not isinstance(final.get("content"), str) or "tool_calls" in final:
        raise InvalidInputError("continue_final_message: expected a final message of text alone, got another")
    rendered[-1] = rendered[-1] | {"content": rendered[-1]["content"] + _MARK}
    text = template.render(rendered, add_generation_prompt=False, tools=tools, **variables)
    before, mark, after = text.rpartition(_MARK.strip())
    if not mark:
        raise InvalidInputError("continue_final_message: this model's chat template does not write the final message")
    return before if after.startswith(" ") else before.rstrip()


def _variables(template: ChatTemplate, options: TemplateOptions) -> dict[str, Any]:
    """The template's variables. One that it does not have is refused, unless its value is what it has for it anyway."""
    variables = {name: value for name, value in options.chat_template_kwargs.items() if value is not None}
    for name, value in variables.items():
        if value is not False and not template.uses(name):
            raise InvalidInputError(
                f"chat_template_kwargs.{shortened(name)}: this model's chat template has no such variable, got "
                f"{quoted(value)}"
            )
    effort = options.reasoning_effort
    if effort is None:
        return variables
    if template.uses("reasoning_effort"):
        return {"reasoning_effort": effort} | variables
    if effort != "none":
        known = "none (or chat_template_kwargs.enable_thinking)" if template.uses("enable_thinking") else "none"
        raise InvalidInputError(
            f"reasoning_effort: this model's chat template has no such variable; expected {known}, got {quoted(effort)}"
        )
    return {"enable_thinking": False} | variables
