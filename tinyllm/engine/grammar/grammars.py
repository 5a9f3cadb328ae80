"""The compiled grammars of one tokenizer, the latest of them kept."""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from functools import cached_property, lru_cache

from tinyllm.engine.grammar.compile import compile_grammar
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.state import GrammarState
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.models.text.call_tags import TAGS
from tinyllm.models.text.tokenizer import Tokenizer


class Grammars:
    """Compiles grammars for one tokenizer, and keeps the latest. May be used by several threads.

    Args:
        executor: computes masks while the model runs; None: they are computed when they are asked for.
        most: grammars kept.
    """

    def __init__(self, tokenizer: Tokenizer, executor: Executor | None = None, most: int = 64) -> None:
        self._tokenizer, self._executor = tokenizer, executor
        self._matcher = lru_cache(most)(lambda grammar: compile_grammar(grammar, self._vocabulary_of(grammar)))
        self._lock = threading.Lock()

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._tokenizer)

    @cached_property
    def _calls_vocabulary(self) -> Vocabulary:
        tokenizer = self._tokenizer.showing(TAGS)
        return self._vocabulary if tokenizer is self._tokenizer else Vocabulary(tokenizer)

    def _vocabulary_of(self, grammar: Grammar) -> Vocabulary:
        return self._calls_vocabulary if grammar.kind == "calls" else self._vocabulary

    def start(self, grammar: Grammar) -> GrammarState:
        """The state of a reply that is yet to begin.

        Raises:
            InvalidInputError: malformed, too large, or no reply can match it.
            UnsupportedError: llguidance is not installed.
        """
        with self._lock:
            vocabulary = self._vocabulary_of(grammar)
        matcher = self._matcher(grammar)
        with self._lock:
            return GrammarState(matcher.deep_copy(), vocabulary.size, vocabulary.ends, self._executor)
