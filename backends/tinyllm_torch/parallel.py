"""Processes that `torchrun` started, over `torch.distributed`'s gloo: on the CPU, on one machine or on several.

The groups are this module's own: none is made the process's default, which is for programs to have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from tinyllm.plugins import BackendUnavailableError, ModelGoneError, Network

JOIN = timedelta(minutes=10)
"""In which all processes have to come: one of them may read its prompt first."""
EVER = timedelta(days=3650)
"""A server waits for its next request, and a process for the largest part to be loaded."""
FIRST = 4096
"""Bytes of a message that are sent at once with its length: most have no more."""


def join(rank: int, ranks: int, patience: float) -> Network:
    """This process's end of the network of those that a launcher started.

    Args:
        patience: seconds that they wait for one another within a step.

    Raises:
        BackendUnavailableError: they do not find one another.
    """
    try:
        store = next(rendezvous("env://", rank, ranks, timeout=JOIN))[0]
        store = PrefixStore(f"tinyllm/{store.add(f'tinyllm/{rank}', 1)}", store)  # a program may load several models
        return GlooNetwork(rank, ranks, store, patience)
    except (RuntimeError, ValueError) as error:
        told = f"torch.distributed: the {ranks} processes cannot join: {_said(error)}"
        raise BackendUnavailableError(told) from error


class GlooNetwork(Network):
    """Groups of processes that find one another by a store. Sums and messages have a group each, as they wait for
    another time."""

    def __init__(self, rank: int, ranks: int, store: Store, patience: float) -> None:
        self.rank, self.ranks = rank, ranks
        self._sums: Any = ProcessGroupGloo(PrefixStore("sums", store), rank, ranks, timedelta(seconds=patience))
        self._words: Any = ProcessGroupGloo(PrefixStore("words", store), rank, ranks, EVER)

    def sum(self, x: Any) -> Any:
        """As `Network.sum`: all parts are gathered, and added in the order of the ranks, on every rank alike."""
        own = torch.from_numpy(np.array(x).reshape(-1))
        parts = torch.empty(self.ranks, own.numel(), dtype=own.dtype)
        with _checked(self._sums) as group:
            group.allgather([list(parts)], [own]).wait()
        rows: np.ndarray = parts.numpy()
        total = rows[0] + rows[1] if self.ranks > 1 else rows[0]
        for row in rows[2:]:
            total += row
        return total.reshape(np.shape(x))

    def tell(self, message: bytes) -> None:
        """As `Network.tell`."""
        framed = len(message).to_bytes(8, "little") + message
        self._broadcast(framed[:FIRST].ljust(FIRST, b"\0"))
        if len(framed) > FIRST:
            self._broadcast(framed[FIRST:])

    def told(self) -> bytes:
        """As `Network.told`."""
        first = self._broadcast(bytes(FIRST))
        length = int.from_bytes(first[:8], "little")
        rest = length - (FIRST - 8)
        return first[8 : 8 + length] + (self._broadcast(bytes(rest)) if rest > 0 else b"")

    def gather(self, message: bytes) -> list[bytes]:
        """As `Network.gather`."""
        lengths = self._gathered(np.array([len(message)]))
        padded = np.frombuffer(message.ljust(max(1, int(lengths.max())), b"\0"), np.uint8).copy()
        found = self._gathered(padded)
        return [row[: int(length)].tobytes() for row, (length,) in zip(found, lengths, strict=True)]

    def close(self) -> None:
        """Close the connections: whoever waits for this process fails."""
        self._sums = self._words = None

    def _broadcast(self, data: bytes) -> bytes:
        held = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        with _checked(self._words) as group:
            group.broadcast(held, 0).wait()
        return held.numpy().tobytes()

    def _gathered(self, own: np.ndarray) -> np.ndarray:
        rows = torch.empty(self.ranks, own.size, dtype=torch.from_numpy(own).dtype)
        with _checked(self._words) as group:
            group.allgather([list(rows)], [torch.from_numpy(own)]).wait()
        found: np.ndarray = rows.numpy()
        return found


@contextmanager
def _checked(group: Any) -> Iterator[Any]:
    if group is None:
        raise ModelGoneError("torch.distributed: the processes were parted: all have to be started again")
    try:
        yield group
    except RuntimeError as error:
        raise ModelGoneError(f"torch.distributed: another process ended, or does not answer: {_said(error)}") from error


def _said(error: Exception) -> str:
    """What a library's message says, without the place in its sources."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"^\[[^\]]*\] ?", "", line).partition(". ")[0]
