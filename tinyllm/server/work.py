"""From the body of a request to sequences for the engine. Everything that a request can have wrong is found here."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

from tinyllm.engine.grammar import Grammar, Grammars, GrammarState
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.llm import LLM
from tinyllm.server.conversation import prompt_text
from tinyllm.server.errors import ApiError
from tinyllm.server.schema import (
    ChatRequest,
    CompletionRequest,
    JsonSchemaFormat,
    NamedTool,
    Sampling,
    TextFormat,
    ToolSpec,
)
from tinyllm.server.tool_calls import BEGIN

_PLAIN = (
    "max_tokens",
    "min_tokens",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "stop_token_ids",
    "ignore_eos",
)
_SEEDS = 2**63
MOST_SEQUENCES = 1024


@dataclass(frozen=True)
class Work:
    """What a request asks of the engine. groups: for each prompt its choices.

    tools: the names of those that may be called; None: there are none. in_call: the prompt ends inside a call.
    """

    request: ChatRequest | CompletionRequest
    groups: list[list[Sequence]]
    tools: frozenset[str] | None = None
    in_call: bool = False
    echoed: tuple[str, ...] = ()

    @property
    def stream(self) -> bool:
        """Whether the reply is sent as it comes."""
        return bool(self.request.stream)

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with its usage."""
        return self.request.stream_options is not None and self.request.stream_options.include_usage

    @property
    def sequences(self) -> list[Sequence]:
        """All choices, in order."""
        return [s for group in self.groups for s in group]


def chat_work(llm: LLM, grammars: Grammars | None, request: ChatRequest) -> Work:
    """A conversation as work. Raises `InvalidInputError`, `UnsupportedError` or `ApiError` with the field that is
    wrong."""
    _check(request)
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise ApiError(
            400, "max_completion_tokens: expected it or max_tokens, got both, with two values", "max_completion_tokens"
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs: expected logprobs: true beside it, got none", "top_logprobs")
    tools, forced = _tools(request)
    prompt = prompt_text(llm, request.messages, tools)
    grammar = _grammar(request)
    if tools and grammar is not None:
        field, _ = grammar
        raise ApiError(400, f"{field}: not supported together with tools, except with tool_choice none", field)
    if forced:
        prompt, grammar = f"{prompt}{BEGIN}\n", ("tools", _call_grammar(forced))
    settings = _settings(request)
    if request.max_completion_tokens is not None:
        settings["max_tokens"] = request.max_completion_tokens
    if request.logprobs:
        settings["logprobs"] = request.top_logprobs or 0
    group = _choices(llm, grammars, llm.tokenizer.encode(prompt), request, settings, grammar)
    names = frozenset(tool.function.name for tool in forced or tools)
    return Work(request, [group], names if tools else None, bool(forced))


def completion_work(llm: LLM, grammars: Grammars | None, request: CompletionRequest) -> Work:
    """One or more texts as work. Raises as `chat_work` does."""
    _check(request)
    count = request.n or 1
    if request.best_of not in (None, count):
        raise ApiError(
            400,
            f"best_of: not supported, other than as n ({count}), got {request.best_of}",
            "best_of",
            "unsupported_field",
        )
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "echo: not supported together with logprobs", "echo", "unsupported_field")
    given: Any = request.prompt
    prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    if len(prompts) * count > MOST_SEQUENCES:
        raise ApiError(
            400,
            f"n: expected at most {MOST_SEQUENCES} replies to all prompts together, got {len(prompts) * count}",
            "n",
        )
    settings, grammar = _settings(request), _grammar(request)
    if request.logprobs is not None:
        settings["logprobs"] = request.logprobs
    encoded = [llm.encode(p, raw=True) for p in prompts]
    groups = []
    for number, ids in enumerate(encoded):
        try:
            groups.append(_choices(llm, grammars, ids, request, settings, grammar))
        except InvalidInputError as error:
            text = str(error)
            if len(prompts) == 1 or not text.startswith("prompt: "):
                raise
            raise ApiError(400, f"prompt.{number}: {text.removeprefix('prompt: ')}", f"prompt.{number}") from error
    texts = [p if isinstance(p, str) else llm.tokenizer.decode(p) for p in prompts] if request.echo else []
    return Work(request, groups, echoed=tuple(texts))


def _check(request: Sampling) -> None:
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options: expected stream: true beside it, got none", "stream_options")


def _settings(request: Sampling) -> dict[str, Any]:
    """Fields of `SamplingParams` that were given. OpenAI's temperature is 1 where none is."""
    settings = {name: value for name in _PLAIN if (value := getattr(request, name)) is not None}
    settings["temperature"] = 1.0 if request.temperature is None else request.temperature
    if request.logit_bias:
        settings["logit_bias"] = {int(token): bias for token, bias in request.logit_bias.items()}
    return settings


def _choices(
    llm: LLM,
    grammars: Grammars | None,
    ids: list[int],
    request: Sampling,
    settings: dict[str, Any],
    named: tuple[str, Grammar] | None,
) -> list[Sequence]:
    """A sequence for each choice; each has its own seed, and its own state of the grammar. named: the grammar, and its
    field."""
    params = llm.sampling(settings)
    checked = llm.sequence(ids, True, params).prompt
    if named is not None:
        params = replace(params, grammar=named[1])
    made = []
    for index in range(request.n or 1):
        own = params if request.seed is None else replace(params, seed=(request.seed + index) % _SEEDS)
        state = None if named is None else _start(grammars, *named)
        made.append(Sequence(checked, own, llm.tokenizer, llm.stop_token_ids, llm.context, grammar=state))
    return made


def _start(grammars: Grammars | None, field: str, grammar: Grammar) -> GrammarState:
    """The state of a reply, or an error under the field that the grammar came from."""
    if grammars is None:
        raise UnsupportedError(f"{field}: this server has no grammars")
    try:
        return grammars.start(grammar)
    except InvalidInputError as error:
        raise ApiError(400, f"{field}: {str(error).removeprefix('grammar: ')}", field, "invalid_grammar") from error


def _grammar(request: Sampling) -> tuple[str, Grammar] | None:
    """What the reply has to follow, with the one field that says so."""
    found: dict[str, Grammar] = {}
    if request.guided_json is not None:
        found["guided_json"] = _named("guided_json", Grammar.json_schema, request.guided_json)
    if request.guided_regex is not None:
        found["guided_regex"] = _named("guided_regex", Grammar.regex, request.guided_regex)
    if request.guided_choice is not None:
        found["guided_choice"] = _named("guided_choice", Grammar.choice, request.guided_choice)
    wanted = request.response_format if isinstance(request, ChatRequest) else None
    if wanted is not None and not isinstance(wanted, TextFormat):
        if isinstance(wanted, JsonSchemaFormat):
            found["response_format"] = _named(
                "response_format.json_schema", Grammar.json_schema, wanted.json_schema.schema_
            )
        else:
            found["response_format"] = Grammar.json_object()
    if len(found) > 1:
        raise ApiError(400, f"{' and '.join(found)}: expected one of them, got {len(found)}", next(iter(found)))
    return next(iter(found.items()), None)


def _named(field: str, make: Any, value: Any) -> Grammar:
    """A grammar, or an error under the field that it came from."""
    try:
        made = make(value)
    except InvalidInputError as error:
        raise ApiError(
            400, f"{field}: {str(error).removeprefix('grammar: ')}", field.partition(".")[0], "invalid_grammar"
        ) from error
    if not isinstance(made, Grammar):
        raise invalid("server", field, "a grammar", type(made).__name__)
    return made


def _tools(request: ChatRequest) -> tuple[list[ToolSpec], list[ToolSpec]]:
    """(tools that the model is told of, those of which it has to call one)"""
    tools, choice = request.tools or [], request.tool_choice
    if not tools:
        if choice not in (None, "none"):
            raise ApiError(400, "tool_choice: expected tools beside it, got none", "tool_choice")
        if request.parallel_tool_calls is not None:
            raise ApiError(400, "parallel_tool_calls: expected tools beside it, got none", "parallel_tool_calls")
        return [], []
    names = [tool.function.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ApiError(400, f"tools: expected names that differ, got {twice!r} twice", "tools")
    if choice == "none":
        return [], []
    if isinstance(choice, NamedTool):
        chosen = [tool for tool in tools if tool.function.name == choice.function.name]
        if not chosen:
            raise ApiError(
                400, f"tool_choice: expected one of {', '.join(names)}, got {choice.function.name!r:.80}", "tool_choice"
            )
        return tools, chosen
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


def _call_grammar(tools: Many[ToolSpec]) -> Grammar:
    """A call of one of some tools, with arguments that its schema allows."""
    calls = []
    for index, tool in enumerate(tools):
        parameters = tool.function.parameters or {"type": "object"}
        _named(f"tools.{index}.function.parameters", Grammar.json_schema, parameters)
        calls.append(_call_schema(tool.function.name, parameters))
    shared: dict[str, Any] = {}
    for call in calls:
        for key in ("$defs", "definitions"):
            for name, value in call["properties"]["arguments"].pop(key, {}).items():
                known = shared.setdefault(key, {}).setdefault(name, value)
                if json.dumps(known, sort_keys=True) != json.dumps(value, sort_keys=True):
                    raise ApiError(400, f"tools: {key}.{name}: expected one meaning in all tools, got two", "tools")
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return _named("tools", Grammar.json_schema, schema | shared)


def _call_schema(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": dict(parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
