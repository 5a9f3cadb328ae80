"""A program that is one stage of a model: it runs on what it receives, and sends on what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyllm.graph.graph import Graph
from tinyllm.graph.observe import Observe
from tinyllm.graph.passes.pipeline import Stage
from tinyllm.graph.program import Pages, Program
from tinyllm.parallel.frames import Arrays, FrameError
from tinyllm.parallel.program import ParallelProgram, Tell
from tinyllm.spec.rope import RopeScaling


class StageProgram(Program):
    """A stage's program.

    Args:
        own: what this process runs. receive: gives what the stage before sends in this step; nothing to the first.
            send: sends on what this stage makes, and gives the outputs of the step, where it waits for them.
    """

    def __init__(
        self, own: Program, stage: Stage, receive: Callable[[], Arrays], send: Callable[[Arrays], list[np.ndarray]]
    ) -> None:
        vars(self).update(vars(own))  # what it says of itself is what its part says
        self._own, self._stage, self._receive, self._send = own, stage, receive, send

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: Pages, observe: Observe | None = None, values_told: bool = False
    ) -> tuple[list[np.ndarray], Pages]:
        """As `Program.__call__`, of this stage's nodes."""
        whole = self._stage.whole
        own = checked({name: inputs[name] for name in whole.inputs if name in inputs}, tuple(whole.inputs), whole)
        received = checked(self._receive(), self._stage.received, whole)
        outputs, updated = self._own({**own, **received}, state, observe, values_told)
        made = {**received, **dict(zip(self._stage.graph.outputs, outputs, strict=True))}
        return self._send({name: made[name] for name in self._stage.sent}), updated


class PipelineProgram(ParallelProgram):
    """The first process's program: what it says of its states and ropes is what all stages together have.

    Args:
        own, tell, broken_off: as `ParallelProgram` takes them. whole: the graph of all stages. size: tokens of a page
            that suits them all.
    """

    def __init__(
        self, own: Program, tell: Tell, broken_off: Callable[[], None], whole: Graph, size: int, **options: Any
    ) -> None:
        super().__init__(own, tell, broken_off, **options)
        self._size, self._all_states = size, tuple(whole.states.values())
        scalings = (node.attributes.get("scaling") for node in whole.nodes)
        self.scalings = tuple(dict.fromkeys(s for s in scalings if isinstance(s, RopeScaling) and s.by_length))

    @property
    def page_size(self) -> int:
        """As `Program.page_size`, of all stages."""
        return self._size

    @property
    def cache_dtypes(self) -> tuple[str, ...]:
        """As `Program.cache_dtypes`, of all stages."""
        return tuple(sorted({state.dtype for state in self._all_states if not state.by_sequence}))

    @property
    def is_recurrent(self) -> bool:
        """As `Program.is_recurrent`, of all stages."""
        return any(state.by_sequence for state in self._all_states)


def checked(arrays: Arrays, names: tuple[str, ...], whole: Graph) -> Arrays:
    """Arrays that came from another process. Raises `FrameError` for others than the graph says."""
    kinds = {name: whole.type_of(name) for name in names}
    wanted = {name: (kind.dtype, len(kind.shape)) for name, kind in kinds.items()}
    got = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
    if wanted != got:
        raise FrameError(f"expected the values {wanted}, got {got}")
    return arrays
