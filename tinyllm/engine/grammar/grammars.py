"""The compiled grammars of one tokenizer, the latest of them kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Executor
from typing import Any

from tinyllm.engine.grammar.compile import compile_grammar
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.state import GrammarState
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.models.text.tokenizer import Tokenizer


class Grammars:
    """Compiles grammars for one tokenizer, and keeps the latest. May be used by several threads.

    Args:
        executor: computes masks while the model runs; None: they are computed when they are asked for.
        most: grammars kept.
    """

    def __init__(self, tokenizer: Tokenizer, executor: Executor | None = None, most: int = 64) -> None:
        self._tokenizer, self._executor, self._most = tokenizer, executor, most
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None

    def start(self, grammar: Grammar) -> GrammarState:
        """The state of a reply that is yet to begin.

        Raises:
            InvalidInputError: malformed, too large, or no reply can match it.
            UnsupportedError: llguidance is not installed.
        """
        with self._lock:
            vocabulary = self._vocabulary = self._vocabulary or Vocabulary(self._tokenizer)
            matcher = self._compiled.pop(grammar, None)
        if matcher is None:
            matcher = compile_grammar(grammar, vocabulary)
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > self._most:
                self._compiled.popitem(last=False)
            return GrammarState(matcher.deep_copy(), vocabulary.size, vocabulary.ends, self._executor)

    def __len__(self) -> int:
        return len(self._compiled)
