"""From a grammar to llguidance's matcher, which stands before the first token, or to the reason why there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyllm.engine.grammar import json_schema
from tinyllm.engine.grammar.call_forms import FORMS, form_rules
from tinyllm.engine.grammar.calls import WHITESPACE, call_rules, free_rules
from tinyllm.engine.grammar.grammar import Grammar, may_be_untagged
from tinyllm.engine.grammar.library import first_line, load_llguidance
from tinyllm.engine.grammar.plain_schema import plain_schema
from tinyllm.engine.grammar.schema_lookup import children
from tinyllm.engine.grammar.state import next_mask
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.errors import InvalidInputError, TinyllmError, invalid
from tinyllm.models.text.call_tags import BEGIN

if TYPE_CHECKING:
    import llguidance


MOST_LEXER_STATES = 50_000
"""What a reply may make of its grammar, at one to two KB a state; replies under large schemas make a few hundred."""


class GrammarRefusedError(InvalidInputError):
    """A grammar cannot be enforced, or costs more than it may. `grammar`: that, or the part of it that is guilty."""

    def __init__(self, message: str, grammar: Grammar) -> None:
        super().__init__(message)
        self.grammar = grammar

    @classmethod
    def made(cls, grammar: Grammar, expected: str, got: object) -> GrammarRefusedError:
        """The error in the words of all bad input."""
        return cls(str(invalid("grammar", grammar.kind, expected, got)), grammar)


def compile_grammar(grammars: Sequence[Grammar], vocabulary: Vocabulary) -> tuple[llguidance.LLMatcher, str]:
    """Compile the first of some grammars, which the others are parts of.

    Returns:
        (a matcher before the first token, the rules that it was made from)

    Raises:
        GrammarRefusedError: llguidance refuses the grammar, or no text of the vocabulary matches it.
    """
    whole, *parts = grammars
    try:
        return _checked(whole, vocabulary)
    except InvalidInputError as error:
        for part in parts:
            try:
                _checked(part, vocabulary)
            except InvalidInputError as own:
                raise GrammarRefusedError(str(own), part) from own
        raise GrammarRefusedError(str(error), whole) from error


def _checked(grammar: Grammar, vocabulary: Vocabulary) -> tuple[llguidance.LLMatcher, str]:
    rules = _whole(grammar)
    matcher = make_matcher(rules, vocabulary)
    reason = matcher.get_error() if matcher.is_error() else "; ".join(matcher.get_grammar_warnings())
    if reason:
        raise _refusal(grammar, vocabulary, reason)
    try:
        mask, may_end = next_mask(matcher.deep_copy(), vocabulary.size, vocabulary.ends)
    except TinyllmError:
        mask, may_end = np.zeros(0, np.bool_), False
    if not mask.any() and not may_end:
        raise invalid("grammar", grammar.kind, "one that some text of the vocabulary matches", "one that none does")
    return matcher, rules


def make_matcher(rules: str, vocabulary: Vocabulary) -> llguidance.LLMatcher:
    """A matcher for rules that `compile_grammar` gave; it holds its own error where it could not be made."""
    library = load_llguidance()
    lark = library.LLMatcher.grammar_from_lark(rules)
    limits = library.LLParserLimits(verbose_errors=False, max_lexer_states=MOST_LEXER_STATES)
    matcher: llguidance.LLMatcher = library.LLMatcher(vocabulary.tokenizer, lark, log_level=0, limits=limits)
    return matcher


def _whole(grammar: Grammar) -> str:
    return f"start: body\n{_rules(grammar, 'body')}"


def _rules(grammar: Grammar, name: str) -> str:
    """A rule with a name, and those that it needs."""
    if grammar.kind in ("schema", "arguments"):
        return f"{name}: {_json_term(_schema(grammar))}"
    if grammar.kind == "regex":
        return f"{name}: {_regex_term(grammar.source)}"
    if grammar.kind == "choice":
        return f"{name}: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in json.loads(grammar.source))
    return _call_rules(json.loads(grammar.source))


def _call_rules(source: dict[str, Any]) -> str:
    """Of calls, and of what else a reply may be; source: the value of the grammar's."""
    schemas = {name: _schema(Grammar("arguments", schema)) for name, schema in source["functions"].items()}
    form = FORMS.get(source.get("form", ""))
    text = source["text"] if isinstance(source["text"], bool) else Grammar(*source["text"])
    named = "said" if isinstance(text, Grammar) else text
    if form is not None:
        rules = form_rules(form, schemas, _json_term, source["several"], named)
    else:
        arguments = {name: _json_term(schema) for name, schema in schemas.items()}
        if text is True:
            return free_rules(arguments, source["several"])
        other = text if isinstance(text, Grammar) else None
        rules = call_rules(arguments, source["several"], "said" if other else None, may_be_untagged(other))
    if isinstance(text, bool):
        return rules
    if text.kind == "regex":  # which may match a call, too
        begin = re.escape(form.begin if form else BEGIN).replace("/", r"\/")
        return f"{rules}\nsaid: SAID\nSAID: {_regex_term(text.source)} & ~/(?s:.*{begin}.*)/"
    return f"{rules}\n{_rules(text, 'said')}"


def _regex_term(pattern: str) -> str:
    return f"/{load_llguidance().regex_to_lark(pattern, 'dw')}/"


def _schema(grammar: Grammar) -> Any:
    """The schema of a grammar, checked."""
    schema = json.loads(grammar.source)
    json_schema.check_schema(schema)
    return json_schema.object_schema(grammar.source) if grammar.kind == "arguments" else schema


def _json_term(schema: Any) -> str:
    """JSON that a schema validates, as a term."""
    schema = plain_schema(schema)
    schema = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}})


def _refusal(grammar: Grammar, vocabulary: Vocabulary, reason: str) -> InvalidInputError:
    """The error that says why a grammar could not be compiled; reason: llguidance's message."""
    if grammar.kind == "regex":
        matcher = load_llguidance().LLMatcher
        # its message for the pattern as it was given, where \d is not written out, has the place
        plain = matcher(vocabulary.tokenizer, matcher.grammar_from_regex(grammar.source), log_level=0)
        problem = _regex_problem(grammar.source, plain.get_error() or reason)
        return invalid("grammar", "regex", "a regular expression", problem)
    if grammar.kind == "choice":
        return invalid("grammar", "choice", "texts that can be told apart", first_line(reason))
    if grammar.kind == "calls":
        return invalid("grammar", "calls", "schemas that can be enforced", f"one that cannot: {first_line(reason)}")
    place = _innermost_place(json.loads(grammar.source), vocabulary)
    return invalid("grammar", place, "a schema that can be enforced", f"one that cannot: {first_line(reason)}")


def _innermost_place(schema: Any, vocabulary: Vocabulary) -> str:
    """Where in a schema the innermost part with the same problem is; at most 200 parts are tried."""
    keys = ("$defs", "definitions")
    definitions = {key: schema[key] for key in keys if key in schema} if isinstance(schema, dict) else {}

    def problem(part: Any) -> str:
        text = json.dumps({**part, **definitions}) if isinstance(part, dict) else json.dumps(part)
        try:
            matcher = make_matcher(f"start: {_json_term(json.loads(text))}", vocabulary)
        except InvalidInputError:  # it refers to what lies outside of it
            return ""
        return first_line(matcher.get_error()) if matcher.is_error() else ""

    place, whole_problem, budget = "schema", problem(schema), 200
    while budget > 0:
        parts = list(children(schema, place))[:budget]
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
    return f"{pattern!r:.80}: {first_line(reason)}{f' at position {len(before)}' if where else ''}"
