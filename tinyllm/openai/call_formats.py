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

from tinyllm.models.text.call_tags import END

Schemas = Mapping[str, Any]
"""The JSON schema of each function's arguments by the function's name; None where it has none."""
Call = tuple[str, dict[str, Any]]
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
    text that is no calls gives None or raises `ValueError`; `read` does not look whether there are such functions."""

    begin: str
    end: str
    read: Callable[[str, Schemas], list[Call] | None]


def _json_calls(text: str, schemas: Schemas) -> list[Call] | None:
    """Of an object or a list of them, and nothing after it."""
    value = json.loads(text)
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
    decoder = json.JSONDecoder()
    for part in text.split("[TOOL_CALLS]"):
        named = _MISTRAL_NAME.match(part)
        if named is None:
            listed = _json_calls(part, schemas)
            if listed is None:
                return None
            calls += listed
            continue
        arguments, end = decoder.raw_decode(part, named.end())
        if part[end:].strip():
            return None
        calls.append((named[1], arguments))
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
    kinds = _kinds(wanted)
    if not kinds or ("string" in kinds and not (text.strip() == "null" and "null" in kinds)):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text.strip(), text)


def _kinds(schema: Any) -> set[str]:
    """The types that a schema names, also as alternatives."""
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type")
    found = {kinds} if isinstance(kinds, str) else {*kinds} if isinstance(kinds, list) else set()
    for alternatives in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(alternatives, list):
            found |= {kind for entry in alternatives if isinstance(entry, Mapping) for kind in [entry.get("type")]}
    return {kind for kind in found if isinstance(kind, str)}


FUNCTION = CallFormat("<function=", "</function>", _function_calls)
GLM = CallFormat("", END, _glm_calls)
"""Begins with a function's name between Hermes' tags."""
FORMATS = (
    FUNCTION,
    CallFormat("[TOOL_CALLS]", "", _mistral_calls),
    CallFormat("functools[", "", lambda text, schemas: _json_calls(f"[{text}", schemas)),
    CallFormat("<|tool_call|>", "<|/tool_call|>", _json_calls),
    CallFormat("<|tool_call>", "<tool_call|>", _gemma_calls),
    CallFormat("<|START_ACTION|>", "<|END_ACTION|>", _json_calls),
    CallFormat("<|tool_call_start|>", "<|tool_call_end|>", _python_calls),
    CallFormat("<function_calls>", "</function_calls>", _python_calls),
)
"""Those that begin with a text of their own."""
FORMAT_TAGS = (*(tag for its in FORMATS for tag in (its.begin, its.end) if tag), "[ARGS]", "[CALL_ID]", '<|"|>')
"""Some tokenizers have them as special tokens."""
