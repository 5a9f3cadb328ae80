"""The forms in which families of models write calls, besides those that `tool_calls` reads piece by piece.

Each is read once it is whole:

- Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or `[TOOL_CALLS]name[ARGS]{...}` for each call
- Qwen3-Coder and Qwen3.5: `<function=name><parameter=key>value</parameter></function>`; Llama 3: `<function=name>{...}`
- GLM-4.5: `name`, and for each argument `<arg_key>key</arg_key><arg_value>value</arg_value>`, between Hermes' tags
- Phi-4-mini: `functools[{...}]` or `<|tool_call|>[{...}]<|/tool_call|>`; Granite: `<|tool_call|>[{...}]`
- Cohere: `<|START_ACTION|>[{"tool_name": ..., "parameters": {...}}]<|END_ACTION|>`
- Gemma 4: `<|tool_call>call:name{key:<|"|>value<|"|>}<tool_call|>`, for each call
- LFM2: `<|tool_call_start|>[name(key="value")]<|tool_call_end|>`; OLMo 3: `<function_calls>name(key="value")`
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm.engine.grammar.call_keys import argument_kinds
from tinyllm.models.text.call_tags import END
from tinyllm.openai.call_parts import JsonEnd

Schemas = Mapping[str, Any]
"""The JSON schema of each function's arguments by the function's name; None where it has none."""
Call = tuple[str, dict[str, Any]]
_DECODER = json.JSONDecoder()
_MOST_PYTHON = 1 << 16
_CONSTANTS = {"true": True, "false": False, "null": None}
_MISTRAL_NAME = re.compile(r"\s*([\w.-]{1,64})\s*(?:\[CALL_ID\]\s*[^\[{]*)?(?:\[ARGS\])?\s*(?=\{)")
_FUNCTION = re.compile(r"\s*([^>\s]{1,64})\s*>")
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)(?:\n?</parameter>|\n?(?=<parameter=)|\n?\Z)", re.DOTALL)
_GLM_NAME = re.compile(r"\s*([\w.-]{1,64})\s*(?=<arg_key>|\Z)")
_GLM_ARGUMENT = re.compile(r"<arg_key>\s*(.*?)\s*</arg_key>\s*<arg_value>(.*?)(?:</arg_value>|\Z)", re.DOTALL)

_GEMMA_NAME = re.compile(r"\s*call:\s*([\w.-]{1,64})\s*(?=\{)")
_GEMMA_PART = re.compile(r'<\|"\|>(.*?)<\|"\|>|([^\s{}\[\],:"<][^{}\[\],:"<]*)(:?)', re.DOTALL)
"""A text between quotes of its own, or what has none: a key before its colon, a number or a constant."""


@dataclass(frozen=True)
class CallFormat:
    """A form of calls: what begins and ends it (no end: that of the reply), and how the text between them is read. A
    text that is no calls gives None or raises `ValueError`; `read` does not look whether there are such functions.

    of_json: whether the calls are a value of JSON, in whose strings the end may stand as well."""

    begin: str
    end: str
    read: Callable[[str, Schemas], list[Call] | None]
    of_json: bool = False

    def cut(self, text: str) -> tuple[str, str, str]:
        """The calls at a text's beginning, their end and what follows; without an end where it is not there yet."""
        length = JsonEnd().push(text) if self.of_json else 0
        if length is None or not self.end:
            return text, "", ""
        body, found, rest = text[length:].partition(self.end)
        return text[:length] + body, found, rest


def _json_calls(text: str, schemas: Schemas) -> list[Call] | None:
    """Of an object or a list of them, and nothing after it."""
    return _listed_calls(json.loads(text))


def _listed_calls(value: Any) -> list[Call] | None:
    calls = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            return None
        name = item.get("name", item.get("tool_name"))
        arguments = item.get("arguments", item.get("parameters"))
        arguments = json.loads(arguments) if isinstance(arguments, str) else {} if arguments is None else arguments
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        calls.append((name, arguments))
    return calls


def _mistral_calls(text: str, schemas: Schemas) -> list[Call] | None:
    calls: list[Call] = []
    rest = f"[TOOL_CALLS]{text.strip()}"
    while rest:
        if not rest.startswith("[TOOL_CALLS]"):
            return None
        rest = rest.removeprefix("[TOOL_CALLS]").lstrip()
        named = _MISTRAL_NAME.match(rest)
        value, end = _DECODER.raw_decode(rest, named.end() if named else 0)
        listed = [(named[1], value)] if named else _listed_calls(value)
        if listed is None:
            return None
        calls, rest = calls + listed, rest[end:].lstrip()
    return calls


def _function_calls(text: str, schemas: Schemas) -> list[Call] | None:
    named = _FUNCTION.match(text)
    if named is None:
        return None
    name, rest = named[1], text[named.end() :].strip()
    if rest.startswith("{"):
        return [(name, json.loads(rest))]
    if rest and not rest.startswith("<parameter="):
        return None
    return [(name, {key: _typed(value, name, key, schemas) for key, value in _PARAMETER.findall(rest)})]


def _glm_calls(text: str, schemas: Schemas) -> list[Call] | None:
    named = _GLM_NAME.match(text)
    if named is None:
        return None
    pairs = _GLM_ARGUMENT.findall(text, named.end())
    return [(named[1], {key: _typed(value, named[1], key, schemas) for key, value in pairs})]


def _gemma_calls(text: str, schemas: Schemas) -> list[Call] | None:
    named = _GEMMA_NAME.match(text)
    if named is None:
        return None
    return [(named[1], json.loads(_GEMMA_PART.sub(_as_json, text[named.end() :])))]


def _as_json(part: re.Match[str]) -> str:
    quoted, bare, colon = part.groups()
    if quoted is not None:
        return json.dumps(quoted)
    return f"{json.dumps(bare.rstrip())}:" if colon else bare


def _python_calls(text: str, schemas: Schemas) -> list[Call] | None:
    if text.lstrip().startswith(("{", "[{")):
        return _json_calls(text, schemas)
    if len(text) > _MOST_PYTHON:
        return None
    try:
        statements = ast.parse(text.strip()).body
        calls: list[Call] = []
        for statement in statements:
            value = statement.value if isinstance(statement, ast.Expr) else None
            for node in value.elts if isinstance(value, ast.List) else [value]:
                if not isinstance(node, ast.Call) or node.args:
                    return None
                arguments = {keyword.arg: _constant(keyword.value) for keyword in node.keywords}
                if None in arguments:
                    return None
                calls.append((ast.unparse(node.func), {str(key): value for key, value in arguments.items()}))
        json.dumps([arguments for _, arguments in calls])  # bytes and sets are no JSON
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("no calls in Python's form") from error
    return calls


def _constant(node: ast.expr) -> Any:
    """The value of an expression without names, but for JSON's own."""
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List):
        return [_constant(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(key) if key else None: _constant(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    return ast.literal_eval(node)


def _typed(text: str, name: str, key: str, schemas: Schemas) -> Any:
    """An argument that is written without quotes: a text, unless its schema asks for something else."""
    schema = schemas.get(name)
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    wanted = properties.get(key) if isinstance(properties, Mapping) else None
    kinds = argument_kinds(wanted)
    if not kinds or ("string" in kinds and not (text.strip() == "null" and "null" in kinds)):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text.strip(), text)


FUNCTION = CallFormat("<function=", "</function>", _function_calls)
GLM = CallFormat("", END, _glm_calls)
"""Begins with a function's name between Hermes' tags."""
FORMATS = (
    FUNCTION,
    CallFormat("[TOOL_CALLS]", "", _mistral_calls),
    CallFormat("functools[", "", lambda text, schemas: _json_calls(f"[{text}", schemas)),
    CallFormat("<|tool_call|>", "<|/tool_call|>", _json_calls, of_json=True),
    CallFormat("<|tool_call>", "<tool_call|>", _gemma_calls),
    CallFormat("<|START_ACTION|>", "<|END_ACTION|>", _json_calls, of_json=True),
    CallFormat("<|tool_call_start|>", "<|tool_call_end|>", _python_calls),
    CallFormat("<function_calls>", "</function_calls>", _python_calls),
)
"""Those that begin with a text of their own."""
FORMAT_TAGS = (*(tag for its in FORMATS for tag in (its.begin, its.end) if tag), "[ARGS]", "[CALL_ID]", '<|"|>')
"""Some tokenizers have them as special tokens."""
