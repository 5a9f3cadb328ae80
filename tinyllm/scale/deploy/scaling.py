"""How many replicas there are to be, and what each of them gets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tinyllm.errors import InvalidInputError, TinyllmError, invalid


@dataclass(frozen=True)
class Scaling:
    """Replicas of a deployment.

    Args:
        replicas: how many there are, or where `most` is set, how many there are at first; None: `least`.
        least, most: between these it is as many as the load needs; `most` None: their number stays.
        target: requests that a replica is to have at a time; None: half of those that it writes at a time.
        cpus: cores that a replica gets. ranks: processes that share its model out, and these cores.
        up_seconds, down_seconds: for how long the load has to ask for more, or fewer.
        window: seconds over which the load is averaged.
    """

    replicas: int | None = None
    least: int | None = None
    most: int | None = None
    target: float | None = None
    cpus: float = 1.0
    ranks: int = 1
    up_seconds: float = 5.0
    down_seconds: float = 120.0
    window: float = 15.0

    def __post_init__(self) -> None:
        """Raises `InvalidInputError` for numbers that contradict one another."""
        for name, value in (("replicas", self.replicas), ("min", self.least), ("max", self.most)):
            if value is not None and value < 1:
                raise invalid("deploy", name, "at least 1", value)
        if not 0 < self.cpus < float("inf"):
            raise invalid("deploy", "cpus-per-replica", "a number above 0", self.cpus)
        if self.ranks > 1 and self.cpus < self.ranks:
            each = f"at least {self.ranks}, a core for each process of --tensor-parallel"
            raise invalid("deploy", "cpus-per-replica", each, f"{self.cpus:g}")
        if self.target is not None and not 0 < self.target < float("inf"):
            raise invalid("deploy", "target-ongoing", "a number above 0", self.target)
        if self.most is None:
            for name, said in (("min", self.least), ("target-ongoing", self.target)):
                if said is not None:
                    raise InvalidInputError(f"deploy: {name}: expected --max beside it, got none")
            return
        if self.first_least > self.most:
            raise invalid("deploy", "min", f"at most --max, which is {self.most}", self.first_least)
        if self.replicas is not None and not self.first_least <= self.replicas <= self.most:
            bounds = f"from {self.first_least} to {self.most}, which --min and --max say"
            raise invalid("deploy", "replicas", bounds, self.replicas)

    @property
    def first_least(self) -> int:
        """Fewest replicas."""
        return self.least or 1

    @property
    def first(self) -> int:
        """Replicas at first."""
        return self.replicas or self.first_least

    @property
    def threads(self) -> int:
        """Threads of each process of a replica."""
        return max(1, int(self.cpus / self.ranks))

    def check_room(self, total: Iterable[float], free: float) -> None:
        """Raises `TinyllmError` where the first replicas find no room, as they would be waited for without end.

        Args:
            total: cores of each machine.
            free: cores that nobody has, of all machines together.
        """
        machines = sorted(total, reverse=True)
        most = min(sum(int(cores / self.cpus + 1e-9) for cores in machines), int(free / self.cpus + 1e-9))
        if most < self.first:
            there = f"{free:g} free of {' + '.join(f'{cores:g}' for cores in machines[:8]) or 0}"
            there += " + ..." if len(machines) > 8 else ""
            raise TinyllmError(
                f"deploy: {self.first} replicas of {self.cpus:g} CPUs each do not fit: {there} CPUs hold {most}; "
                f"ask for fewer --replicas or --cpus-per-replica"
            )
