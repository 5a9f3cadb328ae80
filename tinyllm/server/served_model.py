"""The model behind the server: its engine's thread loads it, runs its requests, and ends with the server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from tinyllm import __version__
from tinyllm.engine.engine import Engine
from tinyllm.engine.engine_thread import EngineThread, StoppedError
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.errors import InvalidInputError, ModelGoneError
from tinyllm.llm import CACHE_TOKENS, LLM
from tinyllm.openai.errors import ApiError, gone
from tinyllm.server.in_flight import Mailbox, RequestInFlight
from tinyllm.server.logs import log
from tinyllm.server.rate_meter import RateMeter

_LAST_SECONDS = 5.0
"""After draining, the time in which requests that were broken off are answered and the engine's thread ends."""


@dataclass(frozen=True)
class EngineSettings:
    """The sizes of an engine, as `Engine` and `Scheduler` explain them.

    Args:
        cache_tokens, pages: both say how much the cache holds; pages go before tokens.
        page_size: tokens of a page; None: what suits the backend.
    """

    cache_tokens: int = CACHE_TOKENS
    pages: int | None = None
    page_size: int | None = None
    max_step_tokens: int = 512
    max_running: int = 64
    max_waiting: int = 256
    one_at_a_time: bool = False

    def __post_init__(self) -> None:
        if self.pages is not None and self.pages < 1:
            raise InvalidInputError(f"serve: pages: expected at least 1, got {self.pages}")


class ServedModel:
    """A model under the name by which clients ask for it.

    Args:
        load: loads it. It is called by the engine's thread, as arrays of some libraries belong to the thread that made
            them.
        settings: of its engine.
        grammar_limits: what compiling the grammar of a request may cost.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], LLM],
        settings: EngineSettings | None = None,
        grammar_limits: GrammarLimits | None = None,
    ) -> None:
        self.name, self.settings = name, settings or EngineSettings()
        self._grammar_limits = grammar_limits or GrammarLimits()
        self.created = int(time.time())
        self.active: set[RequestInFlight] = set()
        """Requests that are being answered."""
        self.rate = RateMeter()
        self.fingerprint = ""
        """Tells the version, backend and kernels that write the replies; empty until the model is loaded."""
        self.pages = self.page_size = 0
        self.thread = EngineThread(self._make_engine)
        self._load = load
        self._llm: LLM | None = None
        self._gone: ModelGoneError | None = None
        self._draining = False
        self._mask_executor = ThreadPoolExecutor(1, "tinyllm-masks")
        self._slow_mask_executor = ThreadPoolExecutor(1, "tinyllm-slow-masks", _leave_processor_to_others)
        self._mailbox: Mailbox | None = None

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, give those that run some seconds to end, break off the rest, and end the thread."""
        self._draining = True
        await _wait(lambda: not self.active, seconds)
        self.break_off()
        stopping = threading.Thread(target=self._stop, name="tinyllm-stop", daemon=True)
        stopping.start()
        # loading cannot be stopped and is not waited for; the threads are daemons, which hold up no process
        await _wait(lambda: not self.active and (self._llm is None or not stopping.is_alive()), _LAST_SECONDS)

    def break_off(self) -> None:
        """Answer 503 to the requests that still run."""
        for request in set(self.active):
            request.end(StoppedError("the engine is shutting down"))

    @property
    def error(self) -> BaseException | None:
        """Why the model could not be loaded, or its engine broke, or can run no step any more."""
        if self.thread.error is not None:
            return self.thread.error
        if self._gone is None and self._llm is not None:
            try:
                self._llm.program.check()
            except ModelGoneError as error:  # kept: all that it runs on ends then, too
                self._gone = error
        return self._gone

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.thread.ready and not self._draining and self.error is None

    @property
    def llm(self) -> LLM:
        """The model. Raises as `check_ready` does."""
        self.check_ready()
        return cast(LLM, self._llm)

    def check_ready(self) -> None:
        """Raises `ApiError` 503 while no requests are taken, with the reason."""
        self.check_alive()
        if self._draining:
            raise ApiError(503, "the server is shutting down", code="draining", retry_after=5)
        if not self.thread.ready:
            raise ApiError(503, "the model is being loaded", code="loading", retry_after=2)

    def check_alive(self) -> None:
        """Raises `ApiError` 503 where the model could not be loaded, or answers no more."""
        if (error := self.error) is not None:
            raise gone(error)

    @property
    def mailbox(self) -> Mailbox:
        """Brings events of the engine to the event loop that runs."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return self._mailbox

    def status(self) -> dict[str, Any]:
        """What the page and `/status` tell: backend, kernels, queue, pages, memory, speed."""
        stats, llm = self.thread.stats(), self._llm
        kernels = Counter(llm.program.report.kernels.values() if llm else ())
        return {
            "model": self.name,
            "ready": self.ready,
            "backend": llm.backend_name if llm else "",
            "kernels": dict(sorted(kernels.items())),
            "context": llm.context if llm else None,
            "running": stats.running,
            "waiting": stats.waiting,
            "pages": self.pages,
            "pages_held": stats.pages_held,
            "cache_bytes": stats.cache_bytes,
            "state_bytes": stats.state_bytes,
            "reused_tokens": stats.reused_tokens,
            "tokens_per_second": round(self.rate.per_second, 2),
            **self.sampling(),
        }

    def sampling(self) -> dict[str, Any]:
        """The sampling settings that the model's files say, and which file does; nothing until the model is loaded."""
        if self._llm is None:
            return {}
        defaults = self._llm.sampling_defaults
        return {
            "sampling_defaults": dict(defaults.values),
            "sampling_defaults_from": defaults.source if defaults.values else None,
        }

    def _stop(self) -> None:
        if self._llm is not None:
            self._llm.grammars.close()
        self.thread.stop()
        for executor in (self._mask_executor, self._slow_mask_executor):
            executor.shutdown(wait=False, cancel_futures=True)

    def _make_engine(self) -> Engine:
        """Load the model and make its engine. Runs in the engine's thread."""
        settings, llm = self.settings, self._load()
        page_size = settings.page_size or llm.program.page_size
        engine = llm.engine(
            settings.cache_tokens if settings.pages is None else settings.pages * page_size,
            page_size,
            max_step_tokens=settings.max_step_tokens,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            one_at_a_time=settings.one_at_a_time,
        )
        llm.tokenizer.encode("ready")  # its file is read now, and not at the first request
        llm.grammars = Grammars(
            llm.tokenizer, self._mask_executor, limits=self._grammar_limits, slow_executor=self._slow_mask_executor
        )
        origin = f"{__version__} {self.name} {llm.backend_name} {sorted(llm.program.report.kernels.items())}"
        self.fingerprint = "fp_" + hashlib.blake2b(origin.encode(), digest_size=6).hexdigest()
        self.pages, self.page_size = engine.pool.pages, engine.pool.page_size
        self._llm = llm
        log.info("loaded", extra={"fields": {"model": self.name, "backend": llm.backend_name, **self.sampling()}})
        return engine


def _leave_processor_to_others() -> None:
    """Let a thread have what others leave idle, where threads have a priority of their own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


async def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Until a condition holds, but no longer than some seconds."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        await asyncio.sleep(0.02)
