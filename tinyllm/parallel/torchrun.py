"""Where `torchrun`, or whatever sets the same variables, has put this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyllm.errors import ConfigError, invalid, quoted

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """One of `world_size` processes, the first of which, of rank 0, is on the machine of that address. The launcher may
    listen at the port itself, as torchrun does."""

    rank: int
    world_size: int
    address: str
    port: int


def torchrun_place(environment: Mapping[str, str]) -> Place | None:
    """The place that the variables say; None where none of them does, though the address of another job may be set.

    Raises:
        ConfigError: some are set and others are not, or one has a value that it cannot have.
    """
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not {"RANK", "WORLD_SIZE"} & given.keys():
        return None
    if missing := [name for name in VARIABLES if name not in given]:
        raise ConfigError(
            f"{', '.join(missing)}: expected a value, as {', '.join(given)} {'have' if len(given) > 1 else 'has'} one: "
            f"torchrun sets all of {', '.join(VARIABLES)}"
        )
    world_size = _number("WORLD_SIZE", given, 1, 1 << 16)
    rank = _number("RANK", given, 0, world_size - 1)
    return Place(rank, world_size, given["MASTER_ADDR"], _number("MASTER_PORT", given, 1, 65535))


def place_of(environment: Mapping[str, str], option: str, number: int) -> Place | None:
    """As `torchrun_place`, for an option of `load` that says how many processes there are.

    Raises:
        ConfigError: as `torchrun_place`. InvalidInputError: the launcher has started another number.
    """
    place = torchrun_place(environment)
    if place is not None and place.world_size != number:
        raise invalid("load", option, f"{place.world_size}, as WORLD_SIZE says", number)
    return place


def local_share(environment: Mapping[str, str]) -> tuple[int, int]:
    """The number of this process among those of its machine, and how many those are: one alone where it is not said.

    Raises:
        ConfigError: as `torchrun_place`.
    """
    if not environment.get("LOCAL_WORLD_SIZE"):
        return 0, 1
    here = _number("LOCAL_WORLD_SIZE", environment, 1, 1 << 16)
    return _number("LOCAL_RANK", environment, 0, here - 1), here


def _number(name: str, given: Mapping[str, str], low: int, high: int) -> int:
    text = given.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not low <= number <= high:
        raise ConfigError(f"{name}: expected a number from {low} to {high}, got {quoted(text)}")
    return number
