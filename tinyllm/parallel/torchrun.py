"""What `torchrun`, or any launcher that sets the same variables, says of this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyllm.errors import ConfigError

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """One of several processes: its number, how many there are, and where the first of them is found."""

    rank: int
    world_size: int
    address: str
    port: int


def torchrun_place(environment: Mapping[str, str]) -> Place | None:
    """This process's place; None where no launcher set one.

    Raises:
        ConfigError: some of the variables are set and others are not, or one holds what it cannot be.
    """
    found = {name: environment[name] for name in NAMES if environment.get(name)}
    if not {"RANK", "WORLD_SIZE"} & found.keys():
        return None
    for name in NAMES:
        if name not in found:
            raise ConfigError(f"{name}: expected a value beside {', '.join(found)}, as torchrun sets them, got none")
    world_size = _number("WORLD_SIZE", found["WORLD_SIZE"], 1, 1 << 20)
    rank = _number("RANK", found["RANK"], 0, world_size - 1)
    return Place(rank, world_size, found["MASTER_ADDR"], _number("MASTER_PORT", found["MASTER_PORT"], 1, 65535))


def local_share(environment: Mapping[str, str]) -> tuple[int, int]:
    """The number of this process among those of its machine, and how many those are: one alone where it is not said.

    Raises:
        ConfigError: as `torchrun_place`.
    """
    if not environment.get("LOCAL_WORLD_SIZE"):
        return 0, 1
    here = _number("LOCAL_WORLD_SIZE", environment["LOCAL_WORLD_SIZE"], 1, 1 << 20)
    return _number("LOCAL_RANK", environment.get("LOCAL_RANK", ""), 0, here - 1), here


def _number(name: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ConfigError(f"{name}: expected a number from {least} to {most}, got {text!r}")
    return int(text)
