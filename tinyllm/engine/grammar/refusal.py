"""Why a grammar could not be compiled, with the place in it."""

from __future__ import annotations

import json
import re
from typing import Any

from tinyllm.engine.grammar import json_schema
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.library import first_line, load_llguidance
from tinyllm.engine.grammar.matcher import make_matcher, to_lark
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.errors import InvalidInputError, invalid


def refusal(grammar: Grammar, vocabulary: Vocabulary, reason: str) -> InvalidInputError:
    """The error that says why a grammar could not be compiled; reason: llguidance's message."""
    if grammar.kind == "regex":
        matcher = load_llguidance().LLMatcher
        # its message for the pattern as it was given, where \d is not written out, has the place
        plain = matcher(vocabulary.tokenizer, matcher.grammar_from_regex(grammar.source), log_level=0)
        problem = _regex_problem(grammar.source, plain.get_error() or reason)
        return invalid("grammar", "regex", "a regular expression", problem)
    if grammar.kind == "choice":
        return invalid("grammar", "choice", "texts that can be told apart", first_line(reason))
    place = _innermost_place(json.loads(grammar.source), vocabulary)
    return invalid("grammar", place, "a schema that can be enforced", f"one that cannot: {first_line(reason)}")


def _innermost_place(schema: Any, vocabulary: Vocabulary) -> str:
    """Where in a schema the innermost part with the same problem is; at most 200 parts are tried."""
    keys = ("$defs", "definitions")
    definitions = {key: schema[key] for key in keys if key in schema} if isinstance(schema, dict) else {}

    def problem(part: Any) -> str:
        text = json.dumps({**part, **definitions}) if isinstance(part, dict) else json.dumps(part)
        matcher = make_matcher(to_lark(Grammar("schema", text)), vocabulary)
        return first_line(matcher.get_error()) if matcher.is_error() else ""

    place, whole_problem, budget = "schema", problem(schema), 200
    while budget > 0:
        parts = list(json_schema.children(schema, place))[:budget]
        budget -= len(parts)
        guilty = next((part for part in parts if problem(part[0]) == whole_problem), None)
        if guilty is None:
            break
        schema, place = guilty
    return place


def _regex_problem(pattern: str, reason: str) -> str:
    """What is wrong with a pattern, and where; llguidance writes / as \\/."""
    where = re.search(r"regex parse error:\n    (.*)\n    ( *)\^+\n", reason)
    before = where[1][: len(where[2])].replace("\\/", "/") if where else ""
    return f"{pattern!r}: {first_line(reason)}{f' at position {len(before)}' if where else ''}"
