"""What a reply has to follow: a grammar that the request gives, or a call of a tool that it asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.state import GrammarState
from tinyllm.errors import InvalidInputError
from tinyllm.openai.errors import ApiError
from tinyllm.openai.schema import ChatRequest, JsonSchemaFormat, NamedTool, SamplingRequest, TextFormat, ToolSpec


@dataclass(frozen=True)
class Constraint:
    """A grammar, and the field of the request that it came from."""

    field: str
    grammar: Grammar

    def start(self, grammars: Grammars) -> GrammarState:
        """The state of a reply that has yet to begin. Raises `ApiError` for a grammar that cannot be enforced."""
        try:
            return grammars.start(self.grammar)
        except InvalidInputError as error:
            raise _grammar_error(self.field, self.field, error) from error


def reply_constraint(request: SamplingRequest) -> Constraint | None:
    """What `response_format` or a `guided_` field says. Raises `ApiError` where several do, or what one says is no
    grammar."""
    constraints: list[Constraint] = []
    makers: dict[str, Callable[[Any], Grammar]] = {
        "guided_json": Grammar.json_schema,
        "guided_regex": Grammar.regex,
        "guided_choice": Grammar.choice,
    }
    for field, make in makers.items():
        value = getattr(request, field)
        if value is not None:
            constraints.append(Constraint(field, _made(field, make, value)))
    response_format = request.response_format if isinstance(request, ChatRequest) else None
    if isinstance(response_format, JsonSchemaFormat):
        schema = response_format.json_schema.schema_
        grammar = _made("response_format.json_schema", Grammar.json_schema, schema)
        constraints.append(Constraint("response_format", grammar))
    elif response_format is not None and not isinstance(response_format, TextFormat):
        constraints.append(Constraint("response_format", Grammar.json_object()))
    if len(constraints) > 1:
        fields = [constraint.field for constraint in constraints]
        raise ApiError(400, f"{' and '.join(fields)}: expected one of them, got {len(fields)}", fields[0])
    return constraints[0] if constraints else None


def chosen_tools(request: ChatRequest) -> tuple[list[ToolSpec], list[ToolSpec]]:
    """(the tools that the model is told of, those of which it has to call one)

    Raises:
        ApiError: fields about tools that contradict one another, or ask for what cannot be enforced.
    """
    tools, choice = request.tools or [], request.tool_choice
    if not tools:
        if choice not in (None, "none"):
            raise ApiError(400, "tool_choice: expected tools beside it, got none", "tool_choice")
        if request.parallel_tool_calls is not None:
            raise ApiError(400, "parallel_tool_calls: expected tools beside it, got none", "parallel_tool_calls")
        return [], []
    names = [tool.function.name for tool in tools]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ApiError(400, f"tools: expected names that differ, got {repeated!r} twice", "tools")
    if choice == "none":
        return [], []
    if isinstance(choice, NamedTool):
        named = [tool for tool in tools if tool.function.name == choice.function.name]
        if not named:
            raise ApiError(
                400, f"tool_choice: expected one of {', '.join(names)}, got {choice.function.name!r:.80}", "tool_choice"
            )
        return tools, named
    if choice == "required":
        return tools, tools
    for index, tool in enumerate(tools):
        if tool.function.strict:
            field = f"tools.{index}.function.strict"
            raise ApiError(
                400,
                f"{field}: not supported with tool_choice auto; with required or a named tool it always holds",
                field,
            )
    return tools, []


def call_constraint(tools: Sequence[ToolSpec]) -> Constraint:
    """A call of one of some tools, with arguments that its schema allows. Raises `ApiError` for a schema that cannot be
    enforced."""
    calls = []
    for index, tool in enumerate(tools):
        parameters = tool.function.parameters or {"type": "object"}
        _made(f"tools.{index}.function.parameters", Grammar.json_schema, parameters)
        calls.append(_call_schema(tool.function.name, parameters))
    shared: dict[str, Any] = {}  # definitions, which stand at the top of a schema
    for call in calls:
        for key in ("$defs", "definitions"):
            for name, value in call["properties"]["arguments"].pop(key, {}).items():
                known = shared.setdefault(key, {}).setdefault(name, value)
                if json.dumps(known, sort_keys=True) != json.dumps(value, sort_keys=True):
                    raise ApiError(400, f"tools: {key}.{name}: expected one meaning in all tools, got two", "tools")
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return Constraint("tools", _made("tools", Grammar.json_schema, schema | shared))


def _call_schema(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": dict(parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _made(place: str, make: Callable[[Any], Grammar], value: Any) -> Grammar:
    """The grammar that `make` gives. Raises `ApiError` with the place in the request that it came from."""
    try:
        return make(value)
    except InvalidInputError as error:
        raise _grammar_error(place, place.partition(".")[0], error) from error


def _grammar_error(place: str, field: str, error: InvalidInputError) -> ApiError:
    return ApiError(400, f"{place}: {str(error).removeprefix('grammar: ')}", field, "invalid_grammar")
