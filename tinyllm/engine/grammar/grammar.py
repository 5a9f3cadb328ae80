"""What a reply may be: what a JSON schema validates, what a regular expression matches, one of some texts, or calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyllm.engine.grammar import json_schema
from tinyllm.engine.grammar.closed_schema import closed_schema
from tinyllm.errors import invalid
from tinyllm.models.text.tokenizer import check_unicode


@dataclass(frozen=True)
class Grammar:
    """What a reply may be. Made by the class methods; `Grammars` compiles it for a model.

    kind: "schema", "arguments", "regex", "choice" or "calls". source: JSON, or the pattern.
    """

    kind: str
    source: str

    @classmethod
    def json_schema(cls, schema: Any, *, check: bool = True) -> Grammar:
        """JSON that a schema (JSON text, or its value) validates; objects have their properties in the schema's order.

        Args:
            check: whether to check it now. It is checked in any case when it is compiled, which for a stranger's schema
                is done where it can be ended.

        Raises:
            InvalidInputError: with the place where it is malformed or has a keyword that cannot be enforced.
        """
        text, value = json_schema.parse(schema)
        if check:
            json_schema.check_schema(value)
        return cls("schema", text)

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls("schema", '{"type": "object"}')

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """A text that a regular expression (of Rust's regex crate: no look-around, no back-references; \\d and \\w are
        of ASCII, as in JSON schemas) matches from end to end.

        Raises `InvalidInputError` where it is no text, or no valid Unicode.
        """
        if not isinstance(pattern, str):
            raise invalid("grammar", "regex", "a regular expression", repr(pattern))
        check_unicode("grammar", "regex", pattern)
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Grammar:
        """One of some texts. Raises `InvalidInputError` for anything but a list of texts, none of them empty."""
        if not (isinstance(choices, (list, tuple)) and choices and all(isinstance(c, str) and c for c in choices)):
            raise invalid("grammar", "choice", "a list of texts, none empty", repr(choices))
        for choice in choices:
            check_unicode("grammar", "choice", choice)
        return cls("choice", json.dumps(list(choices)))

    @classmethod
    def arguments(cls, schema: Any, *, check: bool = True) -> Grammar:
        """A JSON object that a schema validates. Raises as `json_schema` does, and where the schema takes no object."""
        text = cls.json_schema(schema, check=check).source
        if check:
            json_schema.object_schema(text)
        return cls("arguments", text)

    @classmethod
    def calls(
        cls, functions: Mapping[str, Grammar], text: Grammar | bool, several: bool = True, form: str = ""
    ) -> Grammar:
        """Calls of functions, in the forms that `calls.py` tells.

        Args:
            functions: for each name the grammar of its arguments.
            text: what a reply without calls may be; True: any text, and calls may stand in it; False: a reply calls.
            several: whether there may be more than one call.
            form: the name of another form, of `call_forms.FORMS`.
        """
        schemas = {name: grammar.source for name, grammar in functions.items()}
        inner = [text.kind, text.source] if isinstance(text, Grammar) else text
        return cls("calls", json.dumps({"functions": schemas, "text": inner, "several": several, "form": form}))


def may_be_untagged(text: Grammar | None) -> bool:
    """Whether calls without tags are told from the text of a grammar: it has objects of other keys alone, or none.

    text: what a reply may be that does not call, if it may be anything else.
    """
    if text is None:
        return True
    if text.kind == "choice":
        return "{" not in text.source
    schema = closed_schema(json.loads(text.source)) if text.kind == "schema" else None
    if not isinstance(schema, dict) or schema.get("type") != "object" or "patternProperties" in schema:
        return False
    keys = schema.get("properties", {})
    closed = schema.get("additionalProperties") is False and isinstance(keys, dict)
    return closed and not {"arguments", "parameters"} & set(keys)
