"""The compiled grammars of one tokenizer, the latest of them kept."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

from tinyllm.engine.grammar.call_forms import FORM_TAGS
from tinyllm.engine.grammar.compile import GrammarRefusedError, compile_grammar, make_matcher
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.library import first_line
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.grammar.matcher_cache import CompiledGrammar, MatcherCache
from tinyllm.engine.grammar.state import GrammarState
from tinyllm.engine.grammar.trials import Trial, Trials, TrialsBusyError
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.errors import TinyllmError
from tinyllm.models.text.call_tags import TAGS
from tinyllm.models.text.tokenizer import Tokenizer

Key = tuple[Grammar, ...]
"""A grammar, and the parts that it is made of."""


@dataclass
class _Waiting:
    """A trial, and those who wait for what comes of it."""

    trial: Future[Trial]
    futures: list[Future[CompiledGrammar]] = field(default_factory=list)


class Grammars:
    """Compiles grammars for one tokenizer, and keeps the latest. May be used by several threads.

    Args:
        executor: computes masks while the model runs; None: they are computed when they are asked for.
        slow_executor: computes those that take long, so that no quick one waits for them; None: as `executor`.
        most: grammars kept.
        limits: what a grammar may cost. Each is tried in another process first, and compiled in this one where it was
            found to be within them. None: grammars are trusted, and compiled here at once.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        executor: Executor | None = None,
        most: int = 64,
        limits: GrammarLimits | None = None,
        slow_executor: Executor | None = None,
    ) -> None:
        self._tokenizer, self._executor, self._limits = tokenizer, executor, limits
        self._slow_executor = slow_executor or executor
        self._make_vocabulary = cache(partial(Vocabulary, tokenizer))
        self._lock = threading.Lock()
        self._cache: MatcherCache[Key] = MatcherCache(most, sys.maxsize if limits is None else limits.cache)
        self._waiting: dict[Key, _Waiting] = {}
        if limits is not None:
            self._trials = Trials(self._make_vocabulary, limits)
            weakref.finalize(self, self._trials.close)

    @property
    def _vocabulary(self) -> Vocabulary:
        return self._make_vocabulary()

    @cached_property
    def _calls_vocabulary(self) -> Vocabulary:
        tokenizer = self._tokenizer.showing((*TAGS, *FORM_TAGS))
        return self._vocabulary if tokenizer is self._tokenizer else Vocabulary(tokenizer)

    def _vocabulary_of(self, grammar: Grammar) -> Vocabulary:
        return self._calls_vocabulary if grammar.kind == "calls" else self._vocabulary

    def _shared_vocabulary(self) -> Vocabulary:
        with self._lock:
            return self._vocabulary

    def start(self, grammar: Grammar) -> GrammarState:
        """The state of a reply that is yet to begin. Waits until its grammar is compiled.

        Raises:
            InvalidInputError: malformed, too large, or no reply can match it.
            UnsupportedError: llguidance is not installed.
        """
        return self.begin(self.compile(grammar).result())

    def begin(self, compiled: CompiledGrammar) -> GrammarState:
        """The state of a reply that is yet to begin, under a grammar that is compiled."""
        vocabulary = self._shared_vocabulary()
        with self._lock:
            return GrammarState(compiled, vocabulary.size, vocabulary.ends, self._executor, self._slow_executor)

    def compile(self, grammar: Grammar, parts: Sequence[Grammar] = ()) -> Future[CompiledGrammar]:
        """Compile a grammar, or find it. Where it has to be tried first this returns at once; a future that is
        cancelled ends the trial, unless others wait for it.

        Args:
            parts: what it is made of. A `GrammarRefusedError` tells the guilty one.

        Returns:
            A future of the grammar, or of what `start` raises.

        Raises:
            UnsupportedError: llguidance is not installed.
            TrialsBusyError: too many grammars wait.
        """
        self._shared_vocabulary()
        key, future = (grammar, *parts), Future[CompiledGrammar]()
        compiled = self._cache.get(key)
        if compiled is None and self._limits is not None:
            self._try(key, future, self._limits)
            return future
        try:
            if compiled is None:
                compiled = CompiledGrammar(compile_grammar(key, self._vocabulary_of(grammar))[0])
                self._cache.put(key, compiled)
            future.set_result(compiled)
        except TinyllmError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """End the other process, and fail what waits for it."""
        if self._limits is not None:
            self._trials.close()

    def _try(self, key: Key, future: Future[CompiledGrammar], limits: GrammarLimits) -> None:
        """Have a grammar tried, once for all who ask for it meanwhile."""
        if len(key[0].source) > limits.characters:
            size, most = len(key[0].source), limits.characters
            future.set_exception(GrammarRefusedError.made(key[0], f"at most {most} characters", size))
            return
        with self._lock:
            waiting = self._waiting.get(key)
            if waiting is None:
                waiting = self._waiting[key] = _Waiting(self._trials.run(key))
            waiting.futures.append(future)
            first = waiting.futures == [future]
        future.add_done_callback(lambda future: self._leave(key, waiting))
        if first:
            waiting.trial.add_done_callback(lambda trial: self._tried(key, waiting, trial))

    def _leave(self, key: Key, waiting: _Waiting) -> None:
        """End a trial once all who waited for it have gone."""
        with self._lock:
            if not all(one.cancelled() for one in waiting.futures) or self._waiting.get(key) is not waiting:
                return
            del self._waiting[key]
        waiting.trial.cancel()

    def _tried(self, key: Key, waiting: _Waiting, trial: Future[Trial]) -> None:
        """Go on in a thread of its own, as the caller reads from the other process."""
        if not trial.cancelled():
            threading.Thread(target=self._answer, args=(key, waiting), name="tinyllm-grammars", daemon=True).start()

    def _answer(self, key: Key, waiting: _Waiting) -> None:
        """Compile what was tried, and give it to all who wait."""
        compiled: CompiledGrammar | None = None
        error: Exception | None = None
        try:
            compiled = self._compiled(key, waiting.trial.result())
        except Exception as problem:  # noqa: BLE001  whatever it is, they are told
            error = problem
        except BaseException:  # noqa: BLE001  the library panicked
            error = GrammarRefusedError.made(key[0], "a smaller one", "one that is too large")
        with self._lock:
            if self._waiting.get(key) is waiting:
                del self._waiting[key]
            futures, waiting.futures = waiting.futures, []  # a circle of references would keep the grammar
        for future in futures:
            if future.set_running_or_notify_cancel():
                if compiled is not None:
                    future.set_result(compiled)
                else:
                    future.set_exception(error)

    def _compiled(self, key: Key, trial: Trial) -> CompiledGrammar:
        if not self._cache.make_room(trial.bytes):
            raise TrialsBusyError("grammar: the grammars of the replies that are written take all the memory they may")
        try:
            matcher = make_matcher(trial.rules, self._vocabulary_of(key[0]))
            if matcher.is_error():
                raise GrammarRefusedError.made(key[0], "a smaller one", first_line(matcher.get_error()))
        except BaseException:
            self._cache.release(trial.bytes)
            raise
        compiled = CompiledGrammar(matcher, trial.bytes, trial.slow)
        self._cache.put(key, compiled)
        return compiled
