"""The network of `torch.distributed`: sums, messages, and how its ends part. Each rank is a thread here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyllm import __version__
from tinyllm.errors import ModelGoneError, TinyllmError
from tinyllm.models.bound_model import ModelChoice
from tinyllm.parallel import same_machine
from tinyllm.parallel.frames import Frame
from tinyllm.parallel.launched import Launched, follow_first
from tinyllm.parallel.shared_memory import SharedMemoryGroup, shared_file
from tinyllm.registry.registry import default_registry
from tinyllm.spec.communicator import Communicator, Network

distributed = pytest.importorskip("torch.distributed")


def networks(ranks: int, patience: float = 20.0) -> list[Network]:
    """The ends of a network, all in this process."""
    from tinyllm_torch.parallel import GlooNetwork

    store = distributed.HashStore()
    store.set_timeout(timedelta(seconds=20))
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: GlooNetwork(rank, ranks, store, patience), range(ranks)))


def together(groups: list[Any], function: Callable[[Any], Any]) -> list[Any]:
    """What a function gives for each rank, all at the same time."""
    with ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(function, groups))


def test_sums_have_the_bits_of_shared_memory_on_every_rank() -> None:
    parts = np.random.default_rng(0).normal(0, 1e3, (3, 40, 7)).astype(np.float32)
    parts.flags.writeable = False
    descriptor = shared_file(3)
    shared = [SharedMemoryGroup(rank, 3, descriptor, lambda: None) for rank in range(3)]
    wanted = parts[0] + parts[1] + parts[2]
    groups: list[Communicator]
    for groups in (networks(3), shared):  # type: ignore[assignment]
        for found in together(groups, lambda group: group.sum(parts[group.rank])):
            assert found.tobytes() == wanted.tobytes() and found.shape == wanted.shape


def test_messages_of_any_length_come_in_their_order() -> None:
    first, *others = networks(3)
    messages = [b"", b"one", bytes(range(256)) * 16, b"long" * 5000, b"end"]
    receiving = threading.Thread(target=lambda: [first.tell(message) for message in messages])
    receiving.start()
    assert together(others, lambda network: [network.told() for _ in messages]) == [messages] * 2
    receiving.join()
    said = [b"", b"two", b"three" * 2000]
    assert together([first, *others], lambda network: network.gather(said[network.rank])) == [said] * 3


@pytest.mark.parametrize("waiting", ["told", "sum"])
def test_who_waits_for_one_that_hangs_up_fails_at_once(waiting: str) -> None:
    first, second = networks(2)
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(second.told) if waiting == "told" else pool.submit(second.sum, np.ones(3, np.float32))
        time.sleep(0.1)
        first.close()
        with pytest.raises(ModelGoneError, match="another process ended, or does not answer"):
            failing.result(5)
    with pytest.raises(ModelGoneError, match="the processes were parted"):
        first.tell(b"more")


def test_one_that_does_not_come_to_a_sum_is_not_waited_for_without_end() -> None:
    first, second = networks(2, patience=0.2)
    with pytest.raises(ModelGoneError, match="Timed out"):
        first.sum(np.ones(3, np.float32))
    second.close()


@pytest.mark.parametrize(
    ("version", "path", "problem"),
    [("0.0", "", "has tinyllm .*, and the first process 0.0"), (__version__, "/nowhere.gguf", "/nowhere.gguf: ")],
)
def test_what_keeps_one_from_loading_its_part_is_told_to_the_first(version: str, path: str, problem: str) -> None:
    first, second = networks(2)
    order = Frame("order", {"version": version, "choice": ModelChoice(Path(path)).to_json()})
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow_first, second, default_registry())
        others = Launched(first)
        others.send(order)
        with pytest.raises(TinyllmError, match=f"process 1 of 2: {problem}"):
            others.join(None)  # type: ignore[arg-type]
        following.result(5)


def test_a_follower_returns_when_it_is_hung_up_on_at_any_time() -> None:
    first, second = networks(2)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow_first, second, default_registry())
        Launched(first).close()
        following.result(5)


@pytest.mark.parametrize("shared", [True, False])
def test_processes_of_one_machine_share_memory(shared: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And others the network, all of them, also where one alone cannot have the memory."""
    if not shared:
        monkeypatch.setattr(same_machine, "PROCESSES", tmp_path)
    ends = networks(3)
    groups = together(ends, lambda network: same_machine.group_of(network, 20.0))
    assert [isinstance(group, SharedMemoryGroup) for group in groups] == [shared] * 3
    assert shared or groups == ends
    parts = np.random.default_rng(0).normal(0, 1e3, (3, 5)).astype(np.float32)
    wanted = parts[0] + parts[1] + parts[2]
    for found in together(groups, lambda group: group.sum(parts[group.rank])):
        assert found.tobytes() == wanted.tobytes()
