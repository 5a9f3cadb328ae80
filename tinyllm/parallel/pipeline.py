"""Loads a model of which several processes run a stage each: started here, or by `torchrun` on one machine or more."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import NoReturn

from tinyllm.errors import ConfigError, TinyllmError, invalid
from tinyllm.models.bound_model import BoundModel, ModelChoice, bind_stage
from tinyllm.parallel.greeting import Address, Door
from tinyllm.parallel.stage_process import Seat, run_stage
from tinyllm.parallel.stages import Stages
from tinyllm.parallel.torchrun import Place, torchrun_place
from tinyllm.registry.registry import Registry

PATIENCE = 60.0
"""Seconds in which a stage that has something to do has to say that it lives."""
JOINING = 300.0
"""Seconds in which all processes have to be there: one may still fetch the model."""
SHORTEST_TOKEN = 16
DRAWN = 32
"""Characters of an id that torchrun has drawn at random, at least: one that a user gives is shorter."""


def bind_in_stages(
    choice: ModelChoice,
    registry: Registry,
    stages: int,
    progress: Callable[[int, int], None] | None = None,
    patience: float = PATIENCE,
    environment: Mapping[str, str] = os.environ,
) -> BoundModel:
    """A model whose layers are in several processes, of which this is the first. Where `torchrun` has started this
    process as another one, it runs its stage here, and ends with the first.

    Raises: as `bind_model` does, and `TinyllmError` where another process could not load its stage.
    """
    if isinstance(stages, bool) or not isinstance(stages, int) or stages < 1:
        raise invalid("load", "pipeline_parallel", "a number of processes of at least 1", repr(stages))
    place = torchrun_place(environment)
    if place is None:
        address, token = ("127.0.0.1", 0), secrets.token_hex(32)
    else:
        address, token = meeting_place(place, stages), shared_token(registry, environment)
    if place is not None and place.rank:
        _run_and_exit(choice, registry, Seat(place.rank, stages, address, token, patience))
    others = Stages(stages, patience)
    try:
        with closing(_door(address, stages)) as door:
            if place is None:
                others.start(choice, door, token)
            others.gather(door, token, JOINING)
        bound = bind_stage(choice, registry, 0, stages, progress)
        return replace(bound, program=others.join(bound, choice))
    except BaseException:
        others.close()
        raise


def meeting_place(place: Place, stages: int) -> Address:
    """Where the first process listens: at the port after the launcher's own, which torchrun itself holds.

    Raises:
        InvalidInputError: another number of processes than the launcher has started. ConfigError: no port after that.
    """
    if place.world_size != stages:
        raise invalid("load", "pipeline_parallel", f"{place.world_size}, as WORLD_SIZE says", stages)
    if place.port == 65535:
        raise ConfigError("MASTER_PORT: expected one below 65535, as the stages meet at the port after it, got 65535")
    return place.address, place.port + 1


def shared_token(registry: Registry, environment: Mapping[str, str]) -> str:
    """What the processes know and strangers do not: the setting, or on one machine the id that torchrun draws there.

    Raises:
        ConfigError: there is neither, or the setting is short enough to be guessed.
    """
    token = registry.settings["pipeline_token"].value
    run = environment.get("TORCHELASTIC_RUN_ID", "")
    if token is None and environment.get("LOCAL_WORLD_SIZE") == environment.get("WORLD_SIZE"):
        token = run if len(run) >= DRAWN else None
    if token is None or len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"pipeline_token: expected a text of at least {SHORTEST_TOKEN} characters, the same for all processes "
            f"(TINYLLM_PIPELINE_TOKEN), got {'none' if token is None else f'{len(token)} characters'}"
        )
    return str(token)


def _door(address: Address, stages: int) -> Door:
    try:
        return Door(address, stages)
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        raise TinyllmError(f"pipeline_parallel: {where}: cannot listen there: {error.strerror or error}") from error


def _run_and_exit(choice: ModelChoice, registry: Registry, seat: Seat) -> NoReturn:
    where = f"{seat.address[0]}:{seat.address[1]}"
    with suppress(KeyboardInterrupt):  # Ctrl-C is for the first process, which hangs up
        try:
            run_stage(choice, registry, seat, time.monotonic() + JOINING)
        except OSError as error:
            raise TinyllmError(
                f"pipeline_parallel: {where}: the first process cannot be reached there: {error.strerror or error}"
            ) from error
    raise SystemExit(0)
