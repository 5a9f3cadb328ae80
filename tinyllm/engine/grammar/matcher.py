"""Grammars in llguidance's own language, and the matchers that it makes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.library import load_llguidance
from tinyllm.engine.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    import llguidance

WHITESPACE = r" |\n[ \t]{0,24}"
"""Between the parts of JSON: enough for one line, and for indented lines; without a bound a model may write spaces for
ever."""


def to_lark(grammar: Grammar, before: str = "") -> str:
    """A grammar in the dialect of Lark that llguidance reads. before: what comes before the reply, as a term."""
    if grammar.kind == "schema":
        schema = json.loads(grammar.source)
        schema = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
        body = "body: %json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}})
    elif grammar.kind == "regex":
        body = f"body: /{load_llguidance().regex_to_lark(grammar.source, 'dw')}/"
    else:
        body = "body: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in json.loads(grammar.source))
    return f"start: {before} body\n{body}"


def make_matcher(lark: str, vocabulary: Vocabulary) -> llguidance.LLMatcher:
    """A matcher of what `to_lark` gives; it holds its own error where it could not be made."""
    library = load_llguidance()
    limits = library.LLParserLimits(verbose_errors=False)
    matcher: llguidance.LLMatcher = library.LLMatcher(
        vocabulary.tokenizer, library.LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits
    )
    return matcher
