"""From a grammar to a matcher that stands before the first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.mask import next_mask
from tinyllm.engine.grammar.matcher import make_matcher, to_lark
from tinyllm.engine.grammar.refusal import refusal
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.errors import TinyllmError, invalid

if TYPE_CHECKING:
    import llguidance


def compile_grammar(grammar: Grammar, vocabulary: Vocabulary) -> llguidance.LLMatcher:
    """A matcher before the first token.

    Raises `InvalidInputError` where llguidance refuses the grammar, or no text of the vocabulary matches it.
    """
    matcher = make_matcher(to_lark(grammar), vocabulary)
    reason = matcher.get_error() if matcher.is_error() else "; ".join(matcher.get_grammar_warnings())
    if reason:
        raise refusal(grammar, vocabulary, reason)
    try:
        mask, may_end = next_mask(matcher.deep_copy(), vocabulary.size, vocabulary.ends)
    except TinyllmError:
        mask, may_end = np.zeros(0, np.bool_), False
    if not mask.any() and not may_end:
        raise invalid("grammar", grammar.kind, "one that some text of the vocabulary matches", "one that none does")
    if vocabulary.strips:
        # where a reply may begin with a space, the space that is lost has to be there, otherwise it may be
        spaces = any(mask[token] and vocabulary.tokens[token].startswith(b" ") for token in range(vocabulary.size))
        matcher = make_matcher(to_lark(grammar, '" "' if spaces else '" "?'), vocabulary)
    return matcher
