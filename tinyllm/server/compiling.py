"""A request's grammar, compiled before the request is prepared: off the event loop, and off the threads that prepare
requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from starlette.types import Receive

from tinyllm.engine.engine import DeadlineError
from tinyllm.engine.grammar.compile import GrammarRefusedError
from tinyllm.engine.grammar.matcher_cache import CompiledGrammar
from tinyllm.engine.grammar.trials import TrialsEndedError
from tinyllm.llm import LLM
from tinyllm.openai.constraints import Constraint
from tinyllm.openai.requests import request_constraint
from tinyllm.openai.schema import ChatRequest, CompletionRequest


class ClientGoneError(Exception):
    """The client closed its connection."""


async def until_gone(receive: Receive) -> None:
    """Wait until the client goes away: as the body has been read, nothing else can come from it."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def compiled_constraint(
    llm: LLM,
    request: ChatRequest | CompletionRequest,
    receive: Receive,
    seconds: float | None,
    check_ready: Callable[[], None],
) -> Constraint | None:
    """What the replies to a request have to follow, compiled; None: nothing.

    Args:
        receive: tells when the client goes away.
        seconds: the time that the request has; None: any.
        check_ready: raises where the server is being shut down.

    Raises:
        ApiError: the field that is wrong.
        DeadlineError, ClientGoneError: the compiling was broken off.
    """

    def begin() -> tuple[Constraint, Future[CompiledGrammar]] | None:
        constraint = request_constraint(llm, request)
        return None if constraint is None else (constraint, constraint.compile(llm.grammars))

    begun = await asyncio.to_thread(begin)
    if begun is None:
        return None
    constraint, future = begun
    try:
        return replace(constraint, compiled=await _result(future, receive, seconds))
    except GrammarRefusedError as error:
        raise constraint.error(error) from error
    except TrialsEndedError:
        check_ready()
        raise


async def _result(future: Future[CompiledGrammar], receive: Receive, seconds: float | None) -> CompiledGrammar:
    if future.done():
        return future.result()
    compiling = asyncio.wrap_future(future)
    gone: asyncio.Future[None] = asyncio.create_task(until_gone(receive))
    both: set[asyncio.Future[Any]] = {compiling, gone}
    try:
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if compiling.done():
            return compiling.result()
        if gone.done():
            raise ClientGoneError
        raise DeadlineError("the request's grammar was not compiled in the time that the request had")
    finally:
        compiling.cancel()
        gone.cancel()
