"""The processes that a launcher such as `torchrun` started, on one machine or on several. The first of them is the
user's; the others follow it. How they speak with one another a backend's library knows (`BackendPlugin.join`)."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from tinyllm import __version__
from tinyllm.errors import BackendUnavailableError, ModelGoneError, TinyllmError
from tinyllm.graph.program import Program
from tinyllm.models.bound_model import BoundModel, ModelChoice, bind_model
from tinyllm.parallel.cores import keep_to, kept_to
from tinyllm.parallel.follow import follow, frame_of, message_of
from tinyllm.parallel.frames import Frame, FrameError, from_bytes, to_bytes
from tinyllm.parallel.interrupts import leave_signals_to_first
from tinyllm.parallel.processes import PATIENCE
from tinyllm.parallel.program import ParallelProgram
from tinyllm.parallel.same_machine import group_of
from tinyllm.parallel.shared_memory import SharedMemoryGroup
from tinyllm.parallel.torchrun import Place, local_share
from tinyllm.plugins.kernel import resolve
from tinyllm.registry.registry import Registry
from tinyllm.spec.communicator import Communicator, Network


class Launched:
    """The other processes, as the first sees them. They end with it, whatever it dies of.

    Args:
        patience: seconds that they wait for one another within a step.
    """

    def __init__(self, network: Network, patience: float = PATIENCE) -> None:
        self._network = network
        self.group = group_of(network, patience)
        self._closed = weakref.finalize(self, _hang_up, network, self.group)

    def join(self, own: BoundModel) -> ParallelProgram:
        """The program of the whole model, when all processes have loaded their parts.

        Raises:
            TinyllmError: one could not.
        """
        for rank, problem in enumerate(self._network.gather(b"")):
            if problem:
                raise TinyllmError(f"process {rank} of {self._network.ranks}: {problem.decode(errors='replace')}")
        return ParallelProgram(own.program, self.tell, self.close, self.check)

    def tell(self, message: tuple[Any, ...]) -> None:
        """Send a message to all other processes. Raises `ModelGoneError` where one is gone."""
        self.send(frame_of(message))

    def send(self, frame: Frame) -> None:
        """The same of any frame."""
        self.check()
        self._network.tell(to_bytes(frame))

    def check(self) -> None:
        """Raises `ModelGoneError` once the others were hung up on, and where one of this machine is gone."""
        if not self._closed.alive:
            raise ModelGoneError("tensor_parallel: the processes were parted: all have to be started again")
        if self.group.place is not None:
            self.group.place.check(0.0)

    def close(self) -> None:
        """Hang up: the others end."""
        self._closed()


def join(place: Place, registry: Registry, patience: float = PATIENCE) -> Network:
    """This process's end of the network of all that were started.

    Raises:
        BackendUnavailableError: no backend is installed that knows how, or the processes do not find one another.
    """
    for name, plugin in registry.plugins.backends.items():
        if plugin.join and registry.probe(name).available:
            network: Network = resolve(plugin.join, name)(place.rank, place.world_size, patience)
            return network
    raise BackendUnavailableError(
        "tensor_parallel: no backend can join processes that torchrun started; pip install 'tinyllm[torch]'"
    )


def bind_first(
    network: Network,
    choice: ModelChoice,
    registry: Registry,
    progress: Callable[[int, int], None] | None = None,
    patience: float = PATIENCE,
) -> BoundModel:
    """A model that all processes of the network have together, of which this is the first. patience: as `Launched`
    takes it.

    Raises: as `bind_model` does, and `TinyllmError` where another process could not load its part.
    """
    others = Launched(network, patience)
    try:
        others.send(Frame("order", {"version": __version__, "choice": choice.to_json()}))
        with kept_to(*local_share(os.environ)):
            bound = bind_model(choice, registry, others.group, progress)
        return replace(bound, program=others.join(bound))
    except BaseException:
        others.close()
        raise


def follow_first(network: Network, registry: Registry, patience: float = PATIENCE) -> None:
    """Be one of the other processes, until the first one hangs up. patience: as `Launched` takes it."""
    leave_signals_to_first()
    keep_to(*local_share(os.environ))
    with ExitStack() as stack, suppress(ModelGoneError):
        stack.callback(network.close)
        group = group_of(network, patience)
        stack.callback(_hang_up, network, group)
        try:
            program = _bind_hang_up(network, group, registry)
        except ModelGoneError:
            raise
        except TinyllmError as error:
            network.gather(str(error).encode())
            return
        network.gather(b"")
        follow(lambda: message_of(from_bytes(network.told())), program)


def _bind_hang_up(network: Network, group: Communicator, registry: Registry) -> Program:
    frame = from_bytes(network.told())
    match frame:
        case Frame("order", {"version": version, "choice": dict(choice)}):
            if version != __version__:
                raise TinyllmError(f"has tinyllm {__version__}, and the first process {version}")
            return bind_model(ModelChoice.from_json(choice), registry, group).program
    raise FrameError(f"expected the order of the first process, got {frame.what!r} of {[*frame.values]}")


def _hang_up(network: Network, group: Communicator) -> None:
    """Let all others fail that wait for this process."""
    if isinstance(group, SharedMemoryGroup):
        group.give_up()
    network.close()
