"""Finds the node, or the kernel, by which one program of a model departs from another: by halves, with programs that
run a part of their nodes on each of the two backends.

A mixed program is judged by the distance of its logits from those of the second backend alone: it counts as wrong where
that is at least half of the distance of the first backend alone. A single wrong node gives all of that distance or
nothing of it; of rounding errors, which grow little by little, none makes a step of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyllm.conformance.compared_model import ComparedModel, run_steps, runner_of
from tinyllm.conformance.node_judge import NodeJudge
from tinyllm.engine.model_runner import StepBatch
from tinyllm.graph.program import Program
from tinyllm.graph.tools.state_groups import state_groups
from tinyllm.registry.selection import Selection

AGREE = 1e-4
"""Relative to the largest logit, what rounding errors of float32 may come to in a whole model: below it there is
nothing to find."""

Group = tuple[str, ...]


PLAIN = Selection(None)


@dataclass(frozen=True)
class Mixed(Selection):
    """Nodes of these names as one selection says, the others as another."""

    nodes: frozenset[str] = frozenset()
    ours: Selection = PLAIN
    theirs: Selection = PLAIN

    def for_node(self, name: str, op: str) -> str | None:
        """The backend asked for, for this node."""
        return (self.ours if name in self.nodes else self.theirs).for_node(name, op)


@dataclass(frozen=True)
class Found:
    """What a bisection ended with.

    distance: of the logits of the two backends, relative to the largest. programs: how many were run.
    nodes: the guilty ones, which are several where they share a state, or where a kernel is wrong in all of them; empty
    where there is nothing to find. kernel: theirs. alone: whether putting just them on the first backend gives half of
    the distance; otherwise they are the last that made it so large, and others have a part in it.
    """

    distance: float
    programs: int
    nodes: Group = ()
    kernel: str = ""
    alone: bool = True


@dataclass
class Bisection:
    """The programs of a bisection.

    ours, theirs: the two backends. told: called with what is run before each program.
    """

    model: ComparedModel
    ours: str
    theirs: str
    steps: Sequence[StepBatch]
    told: Callable[[str], None] = lambda what: None
    programs: int = 0
    kernels: dict[str, str] = field(default_factory=dict)

    def bind(self, nodes: Iterable[str] | None) -> Program:
        """A program with these nodes on the first backend (None: all) and the rest on the second."""
        select = self.model.registry.select
        ours, theirs = select(self.ours), select(self.theirs)
        mixed = Mixed(theirs.default, source="bisect", nodes=frozenset(nodes or ()), ours=ours, theirs=theirs)
        return self.model.bind(ours if nodes is None else mixed)

    def logits(self, program: Program) -> NDArray[np.float32]:
        """Those of all steps `[R, vocab_size]`."""
        self.programs += 1
        return np.concatenate(run_steps(program, self.steps))

    @cached_property
    def wanted(self) -> NDArray[np.float32]:
        """The logits of the second backend alone."""
        self.told(f"all nodes on {self.theirs}")
        return self.logits(self.bind(()))

    def distance(self, nodes: Iterable[str] | None, what: str) -> float:
        """How far logits are from those of the second backend, relative to the largest; infinite for what is no
        number."""
        wanted = self.wanted
        self.told(what)
        program = self.bind(nodes)
        if nodes is None:
            self.kernels = {node.name: node.kernel for node in program.nodes}
        with np.errstate(all="ignore"):
            apart = float(np.abs(self.logits(program) - wanted).max() / np.abs(wanted).max())
        return apart if np.isfinite(apart) else float("inf")

    def run(self, wanted: Callable[[str], bool] = lambda name: True, agree: float = AGREE) -> Found:
        """Bisect.

        Args:
            wanted: whether a node of this name may be guilty; others stay on the second backend.
            agree: the distance up to which there is nothing to find.
        """
        groups = [group for group in state_groups(self.model.merged) if any(wanted(name) for name in group)]
        every = sum(len(group) for group in groups) == len(self.model.merged.nodes)
        whole = self.distance(None, f"all nodes on {self.ours}")
        if not every:
            whole = self.distance(_names(groups), f"{len(groups)} nodes on {self.ours}")
        if whole <= agree:
            return Found(whole, self.programs)
        half = whole / 2 if np.isfinite(whole) else float("inf")
        right, wrong = 0, len(groups)  # so many of the first groups give a right program, so many a wrong one
        while wrong - right > 1:
            middle = (right + wrong) // 2
            what = f"{middle} of {len(groups)} nodes on {self.ours}; {wrong - right} left"
            if self.distance(_names(groups[:middle]), what) >= half:
                wrong = middle
            else:
                right = middle
        group = groups[right]
        if self.distance(group, f"{group[-1]} alone on {self.ours}") >= half:
            return self._found(whole, group, True)
        return self._by_kernel(whole, half, groups, group)

    def _by_kernel(self, whole: float, half: float, groups: list[Group], group: Group) -> Found:
        """A group that is not enough by itself: all nodes of one of its kernels, if these are."""
        for kernel in dict.fromkeys(self.kernels[name] for name in group):
            moved = [each for each in groups if any(self.kernels[name] == kernel for name in each)]
            if len(moved) > 1 and self.distance(_names(moved), f"all of {kernel} on {self.ours}") >= half:
                return self._found(whole, _names(moved), True, kernel)
        return self._found(whole, group, False)

    def _found(self, whole: float, nodes: Group, alone: bool, kernel: str = "") -> Found:
        """Of nodes that had to move together, those that the reference finds past their bounds, if it finds any."""
        guilty = self._judged(nodes) if len(nodes) > 1 else nodes
        kernels = dict.fromkeys(self.kernels[name] for name in guilty)
        return Found(whole, self.programs, guilty, ", ".join(kernels), alone)

    def _judged(self, nodes: Group) -> Group:
        self.told(f"{len(nodes)} nodes on {self.ours}, each held to the reference")
        judge, program = NodeJudge(self.model, lambda name: name in nodes), self.bind(None)
        runner = runner_of(program, self.steps)
        self.programs += 1
        for number, step in enumerate(self.steps):
            runner.step(step, judge.observer(number), True)
        guilty = {found.node.name for found in judge.guilty}
        return tuple(name for name in nodes if name in guilty) or nodes


def _names(groups: Iterable[Group]) -> Group:
    return tuple(name for group in groups for name in group)
