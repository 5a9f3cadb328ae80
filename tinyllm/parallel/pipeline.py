"""Loads a model of which several processes run a stage each: started here, or by `torchrun` on one machine or more."""

from __future__ import annotations

import ipaddress
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import NoReturn

from tinyllm.errors import ConfigError, TinyllmError, invalid
from tinyllm.models.bound_model import BoundModel, ModelChoice, bind_model, bind_stage
from tinyllm.parallel.greeting import Address, Listener
from tinyllm.parallel.processes import PATIENCE
from tinyllm.parallel.stage_process import StageAddress, run_stage
from tinyllm.parallel.stages import Stages
from tinyllm.parallel.torchrun import Place, place_of
from tinyllm.registry.registry import Registry

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
    process as another one, it runs its stage here, and ends with the first. patience: seconds in which a stage that has
    something to do has to say that it lives.

    Raises: as `bind_model` does, and `TinyllmError` where another process could not load its stage.
    """
    if isinstance(stages, bool) or not isinstance(stages, int) or stages < 1:
        raise invalid("load", "pipeline_parallel", "a number of processes of at least 1", repr(stages))
    if stages == 1:
        return bind_model(choice, registry, progress=progress)
    place = place_of(environment, "pipeline_parallel", stages)
    if place is None:
        address, token = ("127.0.0.1", 0), secrets.token_hex(32)
    else:
        address, token = meeting_place(place), shared_token(registry, environment)
    if place is not None and place.rank:
        _run_and_exit(choice, registry, StageAddress(place.rank, stages, address, token, patience))
    others = Stages(stages, patience)
    try:
        with closing(listener_at(address, environment)) as listener:
            if place is None:
                others.start(choice, listener, token)
            others.gather(listener, token, JOINING)
        bound = bind_stage(choice, registry, 0, stages, progress)
        return replace(bound, program=others.join(bound, choice))
    except BaseException:
        others.close()
        raise


def meeting_place(place: Place) -> Address:
    """Where the first process listens: at the port after the launcher's own, which torchrun itself holds.

    Raises:
        ConfigError: there is no port after that.
    """
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


def listener_at(address: Address, environment: Mapping[str, str]) -> Listener:
    """Listens for the other processes.

    Raises:
        ConfigError: some are on other machines, none of which gets there. TinyllmError: nobody can listen there.
    """
    try:
        listener = Listener(address)
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        raise TinyllmError(f"pipeline_parallel: {where}: cannot listen there: {error.strerror or error}") from error
    here, found = environment.get("LOCAL_WORLD_SIZE"), listener.address[0]
    if here and here != environment.get("WORLD_SIZE") and ipaddress.ip_address(found).is_loopback:
        listener.close()
        raise ConfigError(
            f"MASTER_ADDR: expected an address of this machine that others reach, got {address[0]}, which is {found}"
        )
    return listener


def _run_and_exit(choice: ModelChoice, registry: Registry, stage: StageAddress) -> NoReturn:
    where = f"{stage.address[0]}:{stage.address[1]}"
    with suppress(KeyboardInterrupt):  # Ctrl-C is for the first process, which hangs up
        try:
            run_stage(choice, registry, stage, time.monotonic() + JOINING)
        except OSError as error:
            raise TinyllmError(
                f"pipeline_parallel: {where}: the first process cannot be reached there: {error.strerror or error}"
            ) from error
    raise SystemExit(0)
