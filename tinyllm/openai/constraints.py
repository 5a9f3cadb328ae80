"""What a reply has to follow: a grammar that the request gives, or a call of a tool that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from tinyllm.engine.grammar.call_forms import FORMS
from tinyllm.engine.grammar.compile import GrammarRefusedError
from tinyllm.engine.grammar.grammar import Grammar, may_be_untagged
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.matcher_cache import CompiledGrammar
from tinyllm.errors import InvalidInputError, quoted, shortened
from tinyllm.models.text.call_tags import BEGIN
from tinyllm.openai.call_parts import CallForm
from tinyllm.openai.errors import ApiError
from tinyllm.openai.schema import ChatRequest, JsonSchemaFormat, NamedTool, SamplingRequest, TextFormat, ToolSpec


@dataclass(frozen=True)
class Constraint:
    """A grammar, and the place in the request that it came from.

    parts: what it is made of, each with its own place. call_form: in which forms a reply under it calls tools.
    compiled: the grammar, where that is compiled already.
    """

    field: str
    grammar: Grammar
    parts: tuple[Constraint, ...] = ()
    call_form: CallForm = "exact"
    compiled: CompiledGrammar | None = None

    def compile(self, grammars: Grammars) -> Future[CompiledGrammar]:
        """Have it compiled, as `Grammars.compile` does; `error` says whose fault a failure is."""
        return grammars.compile(self.grammar, [part.grammar for part in self.parts])

    def error(self, error: GrammarRefusedError) -> ApiError:
        """The answer to a request whose grammar was refused, with the guilty place."""
        guilty = next((part for part in self.parts if part.grammar == error.grammar), self)
        return _grammar_error(guilty.field, guilty.field.partition(".")[0], error)

    def ready(self, grammars: Grammars) -> Constraint:
        """The constraint with its grammar compiled. Raises `ApiError` for a grammar that cannot be enforced."""
        if self.compiled is not None:
            return self
        try:
            return replace(self, compiled=self.compile(grammars).result())
        except GrammarRefusedError as error:
            raise self.error(error) from error


def reply_constraint(request: SamplingRequest) -> Constraint | None:
    """What `response_format` or a `guided_` field says. Raises `ApiError` where several do, or what one says is no
    grammar."""
    constraints: list[Constraint] = []
    makers: dict[str, Callable[[Any], Grammar]] = {
        "guided_json": _json_schema,
        "guided_regex": Grammar.regex,
        "guided_choice": Grammar.choice,
    }
    for name, make in makers.items():
        value = getattr(request, name)
        if value is not None:
            constraints.append(Constraint(name, _made(name, make, value)))
    response_format = request.response_format if isinstance(request, ChatRequest) else None
    if isinstance(response_format, JsonSchemaFormat):
        schema = response_format.json_schema.schema_
        place = "response_format.json_schema"
        constraints.append(Constraint(place, _made(place, _json_schema, schema)))
    elif response_format is not None and not isinstance(response_format, TextFormat):
        constraints.append(Constraint("response_format", Grammar.json_object()))
    if len(constraints) > 1:
        fields = [constraint.field for constraint in constraints]
        raise ApiError(
            400, f"{' and '.join(fields)}: expected one of them, got {len(fields)}", fields[0].partition(".")[0]
        )
    return constraints[0] if constraints else None


def chosen_tools(request: ChatRequest) -> tuple[list[ToolSpec], list[ToolSpec]]:
    """(the tools that the model is told of, those of which it has to call one)

    Raises:
        ApiError: fields about tools that contradict one another, or ask for what cannot be enforced.
    """
    tools, choice = request.tools or [], request.tool_choice
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice: expected tools beside it, got none", "tool_choice")
        return [], []
    names = [tool.function.name for tool in tools]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ApiError(400, f"tools: expected names that differ, got {quoted(repeated)} twice", "tools")
    if choice == "none":
        return [], []
    if isinstance(choice, NamedTool):
        named = [tool for tool in tools if tool.function.name == choice.function.name]
        if not named:
            got = f"expected one of {shortened(', '.join(names))}, got {quoted(choice.function.name)}"
            raise ApiError(400, f"tool_choice: {got}", "tool_choice")
        return tools, named
    return tools, tools if choice == "required" else []


def tools_constraint(
    request: ChatRequest,
    tools: Sequence[ToolSpec],
    required: Sequence[ToolSpec],
    text: Constraint | None,
    name: str = "",
) -> Constraint | None:
    """What a reply has to follow that may call tools.

    A call that is asked for obeys its tool's schema; one that the model decides on does so where the tool is `strict`.

    Args:
        tools: those that the model is told of.
        required: those of which it has to call one; none: it may answer in text.
        text: what an answer in text has to follow.
        name: of the form in which the model calls, of `call_forms.FORMS`.

    Raises:
        ApiError: a schema that cannot be enforced.
    """
    if not (required or text or any(tool.function.strict for tool in tools)):
        return None
    functions: dict[str, Grammar] = {}
    parts: list[Constraint] = []
    for tool in required or tools:
        function, place = tool.function, f"tools.{tools.index(tool)}.function.parameters"
        if function.strict or required:
            schema = _NO_PARAMETERS if function.parameters is None else function.parameters
            functions[function.name] = _made(place, _arguments, schema)
            parts.append(Constraint(place, functions[function.name]))
        else:
            functions[function.name] = Grammar.json_object()
    # a weak model that has to call and may call again goes on for ever: it is asked to only where the request says so
    parallel = request.parallel_tool_calls
    several = parallel is True if required else parallel is not False
    several = several and not isinstance(request.tool_choice, NamedTool)
    other = None if required else text
    if name and other and FORMS[name].keys:
        name = ""  # what an answer quotes may look like a call without quotes
    if name:
        form = cast(CallForm, "within" if FORMS[name].begin == BEGIN else FORMS[name].begin)
    else:
        form = "exact" if other is None or may_be_untagged(other.grammar) else "tagged"
    grammar = Grammar.calls(functions, other.grammar if other else not required, several, name)
    return Constraint(other.field if other else "tools", grammar, (*([other] if other else ()), *parts), form)


# checked where compiling them can be ended
_json_schema = partial(Grammar.json_schema, check=False)
_arguments = partial(Grammar.arguments, check=False)
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


def _made(place: str, make: Callable[[Any], Grammar], value: Any) -> Grammar:
    """The grammar that `make` gives. Raises `ApiError` with the place in the request that it came from."""
    try:
        return make(value)
    except InvalidInputError as error:
        raise _grammar_error(place, place.partition(".")[0], error) from error


def _grammar_error(place: str, field: str, error: InvalidInputError) -> ApiError:
    return ApiError(400, f"{place}: {str(error).removeprefix('grammar: ')}", field, "invalid_grammar")
