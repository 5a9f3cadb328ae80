"""How many replicas there are to be."""

from __future__ import annotations

from typing import Any

import pytest

from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.scale.deploy.scaling import Scaling


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"replicas": 0}, "deploy: replicas: expected at least 1, got 0"),
        ({"least": 3, "most": 2}, "deploy: min: expected at most --max, which is 2, got 3"),
        ({"least": 2}, "deploy: min: expected --max beside it, got none"),
        ({"target": 2.0}, "deploy: target-ongoing: expected --max beside it, got none"),
        ({"target": 0.0, "most": 2}, "deploy: target-ongoing: expected a number above 0, got 0.0"),
        ({"replicas": 5, "least": 2, "most": 4}, "deploy: replicas: expected from 2 to 4, which --min and --max say"),
        ({"cpus": 0.0}, "deploy: cpus-per-replica: expected a number above 0, got 0.0"),
        ({"ranks": 3, "cpus": 2.0}, "deploy: cpus-per-replica: expected at least 3, a core for each process"),
        ({"cpus": float("nan")}, "deploy: cpus-per-replica: expected a number above 0, got nan"),
    ],
)
def test_numbers_that_contradict_one_another(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        Scaling(**numbers)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("scaling", "machines", "free", "fits"),
    [
        (Scaling(4, cpus=0.5), [2.0], 2.0, True),
        (Scaling(4, cpus=1.0), [2.0], 2.0, False),
        (Scaling(2, cpus=3.0), [4.0, 4.0], 8.0, True),
        (Scaling(2, cpus=3.0), [5.0, 1.0], 6.0, False),  # one machine cannot hold both, the other none
        (Scaling(2, cpus=1.0), [4.0], 1.0, False),  # others have the rest
        (Scaling(least=1, most=9, cpus=1.0), [2.0], 2.0, True),  # the first find room; the others wait for more
        (Scaling(10, cpus=0.1), [1.0], 1.0, True),
        (Scaling(1), [], 0.0, False),
    ],
)
def test_replicas_that_find_no_room(scaling: Scaling, machines: list[float], free: float, fits: bool) -> None:
    if fits:
        scaling.check_room(machines, free)
        return
    with pytest.raises(TinyllmError, match=f"{scaling.first} replicas of {scaling.cpus:g} CPUs each do not fit"):
        scaling.check_room(machines, free)


def test_the_processes_of_a_replica_share_its_cores() -> None:
    assert [Scaling(cpus=cpus, ranks=ranks).threads for cpus, ranks in ((0.5, 1), (4.0, 1), (4.0, 2), (5.0, 3))] == [
        *(1, 4, 2, 1)
    ]
