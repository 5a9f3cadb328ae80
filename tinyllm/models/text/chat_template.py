"""Chat templates: a conversation to the text that the model was trained on, by the Jinja template that came with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from tinyllm.errors import CheckpointError, InvalidInputError, invalid, quoted, shortened
from tinyllm.models.checkpoints.files import MOST_JSON, read_file
from tinyllm.models.text.template_budget import BASE
from tinyllm.models.text.template_sandbox import TemplateSandbox
from tinyllm.models.text.tokenizer_folder import SPECIALS, special_token, tokenizer_settings

_LONGEST_MESSAGE = 200
_MOST_TEMPLATES = 16
_LONGEST_TEMPLATES = 1 << 17
"""Characters of all templates of a model: the time to parse them goes with their length."""


class ChatTemplate:
    """Named Jinja templates (`default`, maybe `tool_use`...) and the special tokens they may use as variables."""

    def __init__(
        self, templates: Mapping[str, str], special_tokens: Mapping[str, str], where: str = "chat template"
    ) -> None:
        self.templates = dict(templates)
        self.special_tokens = dict(special_tokens)
        self._where = where
        self._sandbox = TemplateSandbox()
        self._compiled: dict[str, jinja2.Template] = {}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        budget_base: int = BASE,
        **kwargs: Any,
    ) -> str:
        """The prompt text. `template` picks a named one; otherwise it is `tool_use` where tools are given and there is
        one, else `default`. `budget_base` is what it may cost, besides what goes with the size of the messages.

        `kwargs` are further variables (`enable_thinking=False`). Raises `InvalidInputError` for messages that the
        template does not take or for which it does more than it may, `CheckpointError` for a template that is broken.
        """
        _check(messages, tools)
        name = template or ("tool_use" if tools and "tool_use" in self.templates else "default")
        variables: dict[str, Any] = {**self.special_tokens, "messages": messages, "tools": tools, "documents": None}
        compiled = self._template(name)
        try:
            variables |= {"add_generation_prompt": add_generation_prompt, **kwargs}
            return self._sandbox.render(compiled, variables, budget_base)
        except Exception as error:  # a stranger's program, on messages that it may not have been written for
            raise InvalidInputError(f"{self._where}: {_one_line(name)}: {_one_line(error)}") from error

    def uses(self, variable: str) -> bool:
        """Whether a template speaks of a variable."""
        return any(re.search(rf"\b{re.escape(variable)}\b", source) for source in self.templates.values())

    def _template(self, name: str) -> jinja2.Template:
        if name not in self.templates:
            raise invalid(
                "chat template", "template", f"one of {shortened(', '.join(sorted(self.templates)))}", quoted(name)
            )
        if name not in self._compiled:
            length = sum(map(len, self.templates.values()))
            if len(self.templates) > _MOST_TEMPLATES or length > _LONGEST_TEMPLATES:
                raise CheckpointError(
                    f"{self._where}: expected at most {_MOST_TEMPLATES} chat templates, of {_LONGEST_TEMPLATES} "
                    f"characters together, got {len(self.templates)} of {length}"
                )
            try:
                self._compiled[name] = self._sandbox.template(self.templates[name])
            except Exception as error:  # jinja2 and Python's compiler raise what they like
                raise CheckpointError(
                    f"{self._where}: {_one_line(name)}: expected a Jinja template, got: {_one_line(error)}"
                ) from error
        return self._compiled[name]


def _check(messages: Any, tools: Any) -> None:
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise invalid("chat", "messages", "a list of at least one message", quoted(messages))
    check_messages(messages)
    if tools is not None and not (isinstance(tools, Sequence) and all(isinstance(tool, Mapping) for tool in tools)):
        raise invalid("chat", "tools", "a list of JSON schemas", quoted(tools))


def check_messages(messages: Sequence[Any]) -> None:
    """Raises `InvalidInputError` for a message that is no object or has no role."""
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise invalid("chat", f"messages[{index}]", "an object with a role", quoted(message))


def _one_line(told: object) -> str:
    return " ".join(str(told)[: 2 * _LONGEST_MESSAGE].split())[:_LONGEST_MESSAGE] or type(told).__name__


def templates_from_folder(folder: Path) -> ChatTemplate | None:
    """The templates of a folder in Hugging Face form: `chat_template.jinja` and those beside it go before
    `tokenizer_config.json`."""
    path = folder / "tokenizer_config.json"
    settings = tokenizer_settings(folder)
    templates = _stated(settings.get("chat_template"), f"{path}: chat_template")
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, file in files.items():
        if file.exists():
            try:
                templates[name] = read_file(file, MOST_JSON).decode()
            except UnicodeDecodeError as error:
                raise CheckpointError(f"{file}: expected a text in UTF-8, got: {_one_line(error)}") from error
    if not templates:
        return None
    tokens = {name: special_token(settings.get(name), f"{path}: {name}") for name in SPECIALS}
    return ChatTemplate(templates, {name: token for name, token in tokens.items() if token is not None}, str(folder))


def _stated(value: Any, where: str) -> dict[str, str]:
    """`chat_template` as a string, or as a list of `{name, template}`."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "template")):
            raise CheckpointError(f"{where}: expected a template or a list of named ones, got {quoted(entry)}")
    return {entry["name"]: entry["template"] for entry in entries}
