"""A replica: the server's app around an engine of its own, without a socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from ray import serve
from starlette.types import Message, Scope
from uvicorn.lifespan.on import LifespanOn

from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.page_pool import Key
from tinyllm.errors import TinyllmError
from tinyllm.llm import LLM
from tinyllm.server.app import make_app
from tinyllm.server.logs import configure
from tinyllm.server.served_model import EngineSettings, ServedModel

REPLICA_HEADER = b"x-replica"
"""The header of each answer that names the replica which wrote it."""


@dataclass(frozen=True)
class Plan:
    """What a replica serves.

    Args:
        name: by which clients ask for the model.
        load: loads it; called in the replica's process.
        sizes: of its engine.
        app: options of `make_app`.
    """

    name: str
    load: Callable[[], LLM]
    sizes: EngineSettings = field(default_factory=EngineSettings)
    grammar_limits: GrammarLimits = field(default_factory=GrammarLimits)
    app: Mapping[str, Any] = field(default_factory=dict)
    log_level: str = "info"


class Replica:
    """Answers requests that the front hands it, one engine for all of them."""

    async def __init__(self, plan: Plan) -> None:  # type: ignore[misc]  # Ray awaits it
        configure(plan.log_level)
        self._model = ServedModel(plan.name, plan.load, plan.sizes, plan.grammar_limits)
        self._app = make_app(self._model, **plan.app)
        self._name = serve.get_replica_context().replica_id.unique_id.encode()
        self._running: set[asyncio.Task[None]] = set()  # an event loop alone does not keep them
        self._lifespan = LifespanOn(uvicorn.Config(self._app, lifespan="on", log_config=None))
        await self._lifespan.startup()
        await asyncio.to_thread(self._model.thread.wait)  # it is no replica before it can answer

    async def answer(self, scope: Scope, body: bytes, keys: Sequence[Key]) -> AsyncIterator[Message]:
        """The messages that the app sends for a request.

        Where nobody reads them any more, the app is told that the client has gone.

        Args:
            keys: of the request's prompt, which the router has read.
        """
        if self._model.error is not None:  # as `tinyllm serve` does; another takes the request, Ray starts anew
            os._exit(1)
        incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        outgoing: asyncio.Queue[Message | None] = asyncio.Queue()
        gone = asyncio.Event()

        async def receive() -> Message:
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            await self._app(scope, receive, outgoing.put)

        running = asyncio.create_task(run())
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        running.add_done_callback(lambda _: outgoing.put_nowait(None))
        try:
            while (message := await outgoing.get()) is not None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", []), (REPLICA_HEADER, self._name)]
                yield message
            running.result()
        finally:
            gone.set()

    def check_health(self) -> None:
        """Raises `TinyllmError` where the engine has broken: Ray then starts another replica in its place."""
        if (error := self._model.error) is not None:
            raise TinyllmError(f"the engine ended: {error}")

    def record_routing_stats(self) -> dict[str, float]:
        """How busy it is, which the router of each front is told."""
        stats = self._model.thread.stats()
        return {
            "load": stats.running + stats.waiting,
            "pages_held": stats.pages_held / max(1, self._model.pages),
        }

    async def __del__(self) -> None:
        """Called by Ray before the process ends, once no request runs here any more or their time is over."""
        await self._lifespan.shutdown()
