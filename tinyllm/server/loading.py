"""The model behind the server: loaded by the engine's thread, while the server listens already."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tinyllm import __version__
from tinyllm.engine.engine import Engine
from tinyllm.engine.engine_thread import EngineThread
from tinyllm.engine.grammar import Grammars
from tinyllm.errors import InvalidInputError
from tinyllm.llm import CACHE_TOKENS, LLM
from tinyllm.server.errors import ApiError
from tinyllm.server.running import Mailbox, RateMeter


@dataclass(frozen=True)
class EngineSettings:
    """Sizes of the engine. pages goes before cache_tokens; page_size None: what suits the backend."""

    cache_tokens: int = CACHE_TOKENS
    pages: int | None = None
    page_size: int | None = None
    max_step_tokens: int = 512
    max_running: int = 64
    max_waiting: int = 256
    one_at_a_time: bool = False


def make_engine(
    load: Callable[[], LLM], settings: EngineSettings, on_loaded: Callable[[LLM, Engine], None]
) -> Callable[[], Engine]:
    """What `EngineThread` takes: loads the model and makes its engine, both in the thread that calls it."""

    def make() -> Engine:
        llm = load()
        size = settings.page_size or llm.program.page_size
        if settings.pages is not None and settings.pages < 1:
            raise InvalidInputError(f"serve: pages: expected at least 1, got {settings.pages}")
        engine = llm.engine(
            settings.cache_tokens if settings.pages is None else settings.pages * size,
            size,
            max_step_tokens=settings.max_step_tokens,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            one_at_a_time=settings.one_at_a_time,
        )
        llm.tokenizer.encode("ready")  # read now, not at the first request
        on_loaded(llm, engine)
        return engine

    return make


class Host:
    """A model under the name by which clients ask for it."""

    def __init__(self, name: str, load: Callable[[], LLM], settings: EngineSettings | None = None) -> None:
        self.name, self.settings = name, settings or EngineSettings()
        self.created = int(time.time())
        self.draining = False
        self.active = 0
        """Requests that are being answered."""
        self.rate = RateMeter()
        self.fingerprint = ""
        self.pages = self.page_size = 0
        self.thread = EngineThread(make_engine(load, self.settings, self._loaded))
        self._llm: LLM | None = None
        self._grammars: Grammars | None = None
        self._masks = ThreadPoolExecutor(1, thread_name_prefix="tinyllm-masks")
        self._mailbox: Mailbox | None = None

    def _loaded(self, llm: LLM, engine: Engine) -> None:
        self._grammars = Grammars(llm.tokenizer, self._masks)
        told = f"{__version__} {self.name} {backend_of(llm)} {sorted(llm.program.report.kernels.items())}"
        self.fingerprint = "fp_" + hashlib.blake2b(told.encode(), digest_size=6).hexdigest()
        self.pages, self.page_size = engine.pool.pages, engine.pool.page_size
        self._llm = llm

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.thread.ready and not self.draining

    @property
    def llm(self) -> LLM:
        """The model. Raises `ApiError` 503 while it is not there, or goes."""
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="draining", retry_after=5)
        if self.thread.error is not None:
            raise ApiError(503, "the model is gone; the server has to be started again", code="stopped")
        if not self.thread.ready or self._llm is None:
            raise ApiError(503, "the model is being loaded", code="loading", retry_after=2)
        return self._llm

    @property
    def grammars(self) -> Grammars | None:
        """Compiles what replies have to follow."""
        return self._grammars

    @property
    def mailbox(self) -> Mailbox:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return self._mailbox

    def check_name(self, name: str | None) -> None:
        """Raises `ApiError` 404 for a model that is not here."""
        if name is not None and name != self.name:
            raise ApiError(404, f"model: expected {self.name!r}, got {name!r:.80}", "model", "model_not_found")

    def status(self) -> dict[str, Any]:
        """How things stand, for the page."""
        stats = self.thread.stats()
        found: dict[str, Any] = {"backend": "", "kernels": {}, "context": None}
        if self._llm is not None:
            kernels = Counter(self._llm.program.report.kernels.values())
            found = {
                "backend": backend_of(self._llm),
                "kernels": dict(sorted(kernels.items())),
                "context": self._llm.context,
            }
        return {
            "model": self.name,
            "ready": self.ready,
            **found,
            "running": stats.running,
            "waiting": stats.waiting,
            "pages": self.pages,
            "pages_held": stats.pages_held,
            "reused_tokens": stats.reused_tokens,
            "tokens_per_second": round(self.rate.per_second, 2),
        }


def backend_of(llm: LLM) -> str:
    """`torch:cpu`; several where ops are spread over backends."""
    return ", ".join(dict.fromkeys(f"{s.backend.name}:{s.backend.device}" for s in llm.program.steps))
