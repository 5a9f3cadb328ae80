"""A bound graph: flat calls over numbered slots, with nothing left to decide or check; and how runs of them become one
call, where their backend gains by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tinyllm.graph.graph import State
from tinyllm.graph.observe import Observe, is_array, observed
from tinyllm.plugins.backend import Backend, BoundNode, Run
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.pages import neighbours
from tinyllm.spec.rope import RopeScaling

Pages = dict[str, Any]
"""Native page arrays by state name. Whoever holds it owns it: a step consumes it and gives a new one."""


@dataclass(frozen=True)
class Step(BoundNode):
    """A bound node that is one call of the program, or a run of them that is."""

    traceable: bool = False
    run: Run | None = None
    """The nodes that this step is one call of."""

    @property
    def nodes(self) -> tuple[BoundNode, ...]:
        """Those of the run, or itself."""
        return self.run.nodes if self.run else (self,)


@dataclass(frozen=True)
class Allocation:
    """Where a state's pages live."""

    state: State
    backend: Backend

    def page_shape(self, page_size: int) -> tuple[int, ...]:
        """Of one page."""
        return tuple(page_size if d == "page" else int(d) for d in self.state.page_shape)

    @property
    def in_block(self) -> bool:
        """Whether the pages lie head by head, in one block with those of other states."""
        return self.backend.heads_first and not self.state.by_sequence

    def page_bytes(self, page_size: int) -> int:
        """Of one page."""
        return prod(self.page_shape(page_size)) * numpy_dtype(self.state.dtype).itemsize


@dataclass
class Report:
    """What binding did.

    kernels: per node its kernel's id. second_copies: weights that are held in more than one form.
    expanded: per kernel and scheme that runs as float matrices, the bytes of its weights before and after.
    written: bytes of packed weights that were put into files. share: where several processes share the model out, the
    bytes of the weights that this one has, as the checkpoint holds them, and those of all.
    """

    kernels: dict[str, str] = field(default_factory=dict)
    second_copies: list[str] = field(default_factory=list)
    expanded: dict[str, tuple[int, int]] = field(default_factory=dict)
    written: int = 0
    share: tuple[int, int] | None = None


class Program:
    """What runs at each step. Made by `bind`."""

    def __init__(
        self,
        steps: list[Step],
        constants: Mapping[int, Any],
        size: int,
        inputs: Mapping[str, int],
        states: Mapping[str, int],
        updates: Mapping[str, int],
        outputs: list[tuple[int, Backend]],
        allocations: Mapping[str, Allocation],
        report: Report,
    ) -> None:
        self.steps = steps
        self.nodes = tuple(node for step in steps for node in step.nodes)
        """Every node in the order in which they run, copies and those of linked runs included."""
        self.report = report
        self._inputs, self._states, self._updates, self._outputs = inputs, states, updates, outputs
        self._allocations = allocations
        self.scalings = _scalings(self.nodes)
        self._backends = list({id(s.backend): s.backend for s in steps}.values())
        self._template: list[Any] = [None] * size
        for slot, value in constants.items():
            self._template[slot] = value
        kept = {slot for slot, _ in outputs} | set(updates.values()) | set(constants)
        self._calls = [
            (s.function, s.sources, s.targets if s.several else s.targets[0], dead)
            for s, dead in zip(steps, _last_uses(steps, kept), strict=True)
        ]

    @property
    def page_size(self) -> int:
        """Tokens of a page that suit the backends: small where neighbouring pages are read in place, large where they
        are gathered."""
        return page_size(a.backend for a in self._allocations.values())

    @property
    def cache_dtypes(self) -> tuple[str, ...]:
        """Dtypes of the pages of keys and values, each once."""
        return tuple(sorted({a.state.dtype for a in self._allocations.values() if not a.state.by_sequence}))

    @property
    def is_recurrent(self) -> bool:
        """Whether some state has a row for each sequence: what comes before a token then cannot be had in pages."""
        return any(a.state.by_sequence for a in self._allocations.values())

    def allocate(self, pages: int, page_size: int, rows: int = 1) -> Pages:
        """Zeroed pages for every state: `[pages, *page_shape]`, of those by sequence `[rows, *page_shape]`. Those on
        the host lie in one block, which the operating system holds in large pages of memory where it is large:
        attention reads it all at each step."""
        found: Pages = {}
        in_one = [a for a in self._allocations.values() if a.in_block]
        block = np.zeros(sum(pages * a.page_bytes(page_size) for a in in_one), np.uint8)
        for name, a in self._allocations.items():
            shape = (rows if a.state.by_sequence else pages, *a.page_shape(page_size))
            if a.in_block:
                size = pages * a.page_bytes(page_size)
                own, block = block[:size], block[size:]
                found[name] = a.backend.from_numpy(_by_head(own.view(numpy_dtype(a.state.dtype)), shape))
            else:
                a.backend.check_process()
                found[name] = a.backend.zeros(shape, a.state.dtype)
        return found

    def pool_bytes(self, pages: int, page_size: int, rows: int = 1) -> tuple[int, int]:
        """What `allocate` takes for pages, and for rows of the states that have one for each sequence."""
        sizes = [0, 0]
        for a in self._allocations.values():
            sizes[a.state.by_sequence] += (rows if a.state.by_sequence else pages) * a.page_bytes(page_size)
        return sizes[0], sizes[1]

    def gathered(self, kv_len: np.ndarray, block_table: np.ndarray, page_size: int) -> int:
        """Bytes of a step's pages that cannot be read in place: of sequences with several, neighbours where the backend
        reads those."""
        paged = (a for a in self._allocations.values() if not a.state.by_sequence)
        gathering = [a for a in paged if not a.backend.reads_pages]
        if not gathering:
            return 0
        rows = [row[: -(-keys // page_size)] for row, keys in zip(block_table, kv_len.tolist(), strict=True)]
        several = [row for row in rows if len(row) > 1]
        if not several:
            return 0
        pages = {False: sum(map(len, several)), True: sum(len(row) for row in several if not neighbours(row))}
        return sum(pages[a.backend.heads_first] * a.page_bytes(page_size) for a in gathering)

    def check(self) -> None:
        """Raises `ModelGoneError` where no step can be run any more. Any thread may ask."""

    def grow(self, state: Pages, pages: int, page_size: int, rows: int = 1) -> Pages:
        """The same pages in a larger pool, each state moved and freed in turn; sizes never shrink."""
        grown: Pages = {}
        for name, allocation in self._allocations.items():
            allocation.backend.check_process()
            old = allocation.backend.to_numpy(state.pop(name))
            shape = [rows if allocation.state.by_sequence else pages, *allocation.page_shape(page_size)]
            new = _pages(allocation, tuple(shape))
            new[tuple(slice(0, n) for n in old.shape)] = old
            grown[name] = allocation.backend.from_numpy(new)
        return grown

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: Pages, observe: Observe | None = None, values_told: bool = False
    ) -> tuple[list[np.ndarray], Pages]:
        """One step. `state` is emptied: its pages are written in place, and only the returned one holds them.

        observe: told of every node, those of a linked run too. Each is waited for, so that the step takes longer.
        values_told: of their inputs and outputs as well; linked runs then run node by node.
        """
        values = self._template.copy()
        for name, slot in self._inputs.items():
            values[slot] = inputs[name]
        for name, slot in self._states.items():
            values[slot] = state.pop(name)
        with ExitStack() as contexts:
            for backend in self._backends:
                backend.check_process()
                contexts.enter_context(backend.step_context())
            calls = self._calls if observe is None else self._observed(observe, values_told)
            for function, sources, targets, dead in calls:
                result = function(*[values[i] for i in sources])
                if isinstance(targets, int):
                    values[targets] = result
                else:
                    for slot, part in zip(targets, result, strict=True):
                        values[slot] = part
                del result
                for slot in dead:
                    values[slot] = None
            updated = {name: values[slot] for name, slot in self._updates.items()}
            for backend in self._backends:
                owned = [a for n, a in updated.items() if self._allocations[n].backend is backend]
                backend.synchronize(*owned, *(values[slot] for slot, home in self._outputs if home is backend))
            return [backend.to_numpy(values[slot]) for slot, backend in self._outputs], updated

    def _observed(self, observe: Observe, values: bool) -> list[Any]:
        """The calls, each of which tells of its nodes."""
        return [
            (observed(step, function, step.run, observe, values), *rest)
            for step, (function, *rest) in zip(self.steps, self._calls, strict=True)
        ]


def page_size(backends: Iterable[Backend]) -> int:
    """Tokens of a page that suits the backends of all states."""
    return 64 if all(backend.heads_first for backend in backends) else 256


def _scalings(nodes: tuple[BoundNode, ...]) -> tuple[RopeScaling, ...]:
    """Those of rotary embeddings that go by the length of the sequence, each once."""
    found = [node.call.attributes.get("scaling") for node in nodes if node.call]
    return tuple(dict.fromkeys(s for s in found if isinstance(s, RopeScaling) and s.by_length))


def _pages(allocation: Allocation, shape: tuple[int, ...]) -> np.ndarray:
    """Zeroed pages on the host, in the order in memory that the backend wants."""
    dtype = numpy_dtype(allocation.state.dtype)
    if not allocation.in_block:
        return np.zeros(shape, dtype)
    return _by_head(np.zeros(prod(shape), dtype), shape)


def _by_head(numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers as pages `[P, H, page, D]` that lie head by head."""
    return numbers.reshape(shape[1], shape[0], *shape[2:]).swapaxes(0, 1)


def _last_uses(steps: list[Step], kept: set[int]) -> list[tuple[int, ...]]:
    """Per step the slots that nobody reads afterwards."""
    dead: list[tuple[int, ...]] = []
    needed = set(kept)
    for step in reversed(steps):
        touched = {*step.sources, *step.targets}
        dead.append(tuple(sorted(touched - needed)))
        needed |= touched
    return dead[::-1]


def link_runs(steps: list[Step], constants: Mapping[int, Any], kept: set[int]) -> list[Step]:
    """The steps with each run of traceable ones on one backend replaced by one call, if `Backend.link` gives one.

    kept: numbers of values that are read after the last step.
    """
    linked: list[Step] = []
    run: list[Step] = []
    for number, step in enumerate(steps):
        if run and (not step.traceable or step.backend is not run[0].backend):
            linked += _linked(run, steps[number:], constants, kept)
            run = []
        if step.traceable:
            run.append(step)
        else:
            linked.append(step)
    return linked + _linked(run, [], constants, kept)


def _linked(steps: list[Step], later: list[Step], constants: Mapping[int, Any], kept: set[int]) -> list[Step]:
    if len(steps) < 2:
        return steps
    targets = {number for step in steps for number in step.targets}
    sources = dict.fromkeys(number for step in steps for number in step.sources if number not in targets)
    packed = {n: constants[n] for n in sources if n in constants and not is_array(constants[n])}
    read_later = kept | {number for step in later for number in step.sources}
    inputs = tuple(number for number in sources if number not in packed)
    outputs = tuple(number for step in steps for number in step.targets if number in read_later)
    backend = steps[0].backend
    run = Run(tuple(steps), inputs, outputs, packed)
    function = backend.link(run)
    if function is None:
        return steps
    name = f"{steps[0].name} .. {steps[-1].name}"
    return [Step("run", name, f"{backend.name}/run", backend, function, inputs, outputs, several=True, run=run)]
