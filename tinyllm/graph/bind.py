"""Binds a graph to backends: every choice is made here, once, and the `Program` that comes out only runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from tinyllm.catalogue.schemes.halves import HALVES
from tinyllm.errors import UnsupportedError, invalid
from tinyllm.graph.graph import Graph, Node
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.passes.merge import merge_calls
from tinyllm.graph.program import Allocation, Program, Report, Step, link_runs
from tinyllm.graph.weights import WeightKey, WeightSource, load_weights, place, stored_type, weight_key
from tinyllm.plugins.backend import Backend
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection, fits, nearest
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType, Call
from tinyllm.spec.validation import check_call, output_names

HOST = "host"

Slots = dict[tuple[Any, str], int]
"""Numbers for values; a value has one slot on each backend it is needed on, made when it is first asked for."""


def bind(
    graph: Graph,
    registry: Registry,
    selection: Selection,
    source: WeightSource,
    *,
    fast: bool | None = None,
    files: PackedFiles | None = None,
    progress: Callable[[int, int], None] | None = None,
    whole: Graph | None = None,
) -> Program:
    """Merge what can be one call, choose kernels, load and pack weights layer by layer, and lay out the calls.

    Args:
        source: gives the checkpoint's tensors by name.
        fast: allow kernels that round activations or scales; None: as the settings say.
        files: where packed weights are kept; None: nowhere.
        progress: told (weights bound, weights in all).
        whole: the graph of which this one is a stage: kernels are chosen as for that, so that numbers are the same.

    Raises:
        UnsupportedError: no kernel for a node, or nodes of one state on two backends.
        CheckpointError: a weight that does not fit its node.
        InvalidInputError: a backend was named for an op or for nodes that the graph does not have.
    """
    binder = _chosen(graph, registry, selection, source, fast, whole)
    told = progress or (lambda done, total: None)
    return binder.lay_out(load_weights(binder.graph, source, binder.bound, files, binder.report, told))


def choose(
    graph: Graph, registry: Registry, selection: Selection, source: WeightSource, *, fast: bool | None = None
) -> tuple[Graph, Mapping[str, BoundKernel]]:
    """What `bind` would run, the graph as it is merged and the kernel of each of its nodes; no weight is read.

    Raises as `bind` does, but for weights.
    """
    binder = _chosen(graph, registry, selection, source, fast)
    return binder.graph, binder.bound


def _chosen(
    graph: Graph,
    registry: Registry,
    selection: Selection,
    source: WeightSource,
    fast: bool | None,
    whole: Graph | None = None,
) -> _Binder:
    merged = merge_calls(graph, source)
    known = merged if whole is None or whole is graph else merge_calls(whole, source)
    binder = _Binder(merged, registry, selection, source, fast, known)
    binder.choose_kernels()
    return binder


class _Binder:
    def __init__(
        self,
        graph: Graph,
        registry: Registry,
        selection: Selection,
        source: WeightSource,
        fast: bool | None,
        whole: Graph,
    ) -> None:
        self.graph, self.registry, self.selection, self.source, self.fast = graph, registry, selection, source, fast
        self.whole, self.readers = whole, whole.consumers()
        self.bound: dict[str, BoundKernel] = {}
        self.asked: dict[str, Call] = {}
        self.report = Report()

    def choose_kernels(self) -> None:
        """A kernel for each node, from the symbolic types of its inputs."""
        self._check_selection()
        readers = self.readers
        for node in self.graph.nodes:
            spec = self.registry.spec(node.op)
            backend = self.registry.backend_for(node.op, self.selection, node.name)
            types = {i: self._type(name) for i, name in node.inputs.items()}
            weights = [node.inputs[i.name] for i in spec.inputs if i.kind == "weight" and i.name in node.inputs]
            call = check_call(spec, types, node.attributes, backend.device)
            call = replace(
                call,
                weights_packed=all(name in self.graph.weights for name in weights),
                shared=any(self._is_shared(name, readers[name]) for name in weights if name in self.graph.weights),
            )
            choice = self.registry.choose(call, backend, fast=self.fast)
            self.bound[node.name], self.asked[node.name] = self.registry.bind(choice), call
            self.report.kernels[node.name] = choice.id
        self._check_states()

    def _check_selection(self) -> None:
        """Every choice is of something that this model has."""
        ops, names = {node.op for node in self.whole.nodes}, [node.name for node in self.whole.nodes]
        for op, _ in self.selection.per_op:
            if op not in ops:
                known = f"an op of this model ({', '.join(sorted(ops))})"
                raise invalid(self.selection.source, op, known, "one it does not have")
        for pattern, _ in self.selection.per_node:
            if not any(fits(pattern, name) for name in names):
                known = f"nodes of this model (the nearest are {', '.join(nearest(pattern, names))})"
                raise invalid(self.selection.source, pattern, known, "a pattern that fits none")

    def _type(self, name: str) -> ArrayType | QuantType:
        if name not in self.graph.weights:
            return self.graph.type_of(name)
        return stored_type(self.graph, name, self.source, halves=self._takes_halves(name))

    def _takes_halves(self, name: str) -> bool:
        """Whether all that read a weight have kernels for floats of 16 bits as they are."""
        return all(self._reads_halves(node, name) for node in self.readers[name])

    def _reads_halves(self, node: Node, name: str) -> bool:
        backend = self.registry.backend_for(node.op, self.selection, node.name).name
        kernels = (k for k in self.registry.plugins.kernels if (k.backend, k.op) == (backend, node.op))
        kinds = {i.kind for i in self.registry.spec(node.op).inputs if node.inputs.get(i.name) == name}
        return kinds == {"weight"} and any(HALVES.keys() <= {*kernel.schemes} for kernel in kernels)

    def _is_shared(self, name: str, readers: list[Node]) -> bool:
        """Whether a dense weight is read by several ops: one form should serve them all."""
        return len({node.op for node in readers}) > 1 and isinstance(self._type(name), ArrayType)

    def _check_states(self) -> None:
        """Pages are written and read in place, so all nodes that touch a state share a backend."""
        origin = {new: old for old, new in self.graph.updates.items()}
        touching: dict[str, list[Node]] = {name: [] for name in self.graph.states}
        for node in self.graph.nodes:
            for name in {origin.get(value, value) for value in node.inputs.values()} & touching.keys():
                touching[name].append(node)
        for name, users in touching.items():
            backends = {place(self.bound[n.name].backend) for n in users}
            if len(backends) > 1:
                nodes = ", ".join(f"{n.name} on {place(self.bound[n.name].backend)}" for n in users)
                raise UnsupportedError(f"state {name}: all that read or write it must share a backend, got {nodes}")

    def lay_out(self, weights: Mapping[WeightKey, Any]) -> Program:
        """The flat list of calls, with copies between backends made explicit and values freed after their last use."""
        slots: Slots = defaultdict(count().__next__)
        constants: dict[int, Any] = {}
        copied: set[int] = set()
        steps: list[Step] = []
        home: dict[str, str] = dict.fromkeys(self.graph.inputs, HOST)
        backends = {place(bound.backend): bound.backend for bound in self.bound.values()}
        for node in self.graph.nodes:
            bound = self.bound[node.name]
            here = place(bound.backend)
            sources: dict[str, int] = {}
            for input_name, name in node.inputs.items():
                if name in self.graph.weights:
                    key = weight_key(name, bound, input_name)
                    slot = slots[key, here]
                    constants[slot] = weights[key]
                else:
                    if name in self.graph.states:
                        home[name] = here
                    needed = HOST if input_name in bound.host else here
                    slot = slots[name, needed]
                    if home[name] != needed and slot not in copied:
                        copied.add(slot)
                        steps.append(_copy(name, self.graph.type_of(name), home[name], needed, backends, slots))
                sources[input_name] = slot
            for output in node.outputs:
                home[output] = here
            steps.append(self._step(node, bound, sources, tuple(slots[output, here] for output in node.outputs)))
        return self._program(steps, constants, slots, home, backends)

    def _step(self, node: Node, bound: BoundKernel, sources: dict[str, int], targets: tuple[int, ...]) -> Step:
        spec, kernel = bound.spec, bound.choice.kernel
        attributes = {k: v for k, v in node.attributes.items() if v != spec.signature.parameters[k].default}
        keyword = [i.name for i in spec.keyword if i.name in sources]
        function = partial(bound.function, **attributes) if attributes else bound.function
        unpacked = [n for n, name in node.inputs.items() if n in bound.packed and name not in self.graph.weights]
        if unpacked:  # a value of the graph in a weight's place is packed in the step itself
            function = _packing(function, [i.name for i in spec.positional], unpacked, bound)
        if keyword:
            function = _by_name(function, len(spec.positional), tuple(keyword))
        names = (*(i.name for i in spec.positional), *keyword)
        return Step(
            node.op,
            node.name,
            bound.choice.id,
            bound.backend,
            function,
            tuple(sources[name] for name in names),
            targets,
            several=len(node.outputs) > 1 or spec.gives_many,
            call=bound.call,
            asked=self.asked[node.name],
            inputs=names,
            outputs=output_names(spec, bound.call),
            types=tuple(self.graph.type_of(output) for output in node.outputs),
            traceable=bool(kernel and kernel.traceable),
        )

    def _program(
        self,
        steps: list[Step],
        constants: dict[int, Any],
        slots: Slots,
        home: dict[str, str],
        backends: dict[str, Backend],
    ) -> Program:
        graph = self.graph
        inputs = {name: slots[name, HOST] for name in graph.inputs}
        states = {name: slots[name, home[name]] for name in graph.states}
        updates = {name: slots[value, home[value]] for name, value in graph.updates.items()}
        outputs = [(slots[name, home[name]], backends[home[name]]) for name in graph.outputs]
        allocations = {name: Allocation(state, backends[home[name]]) for name, state in graph.states.items()}
        kept = {slot for slot, _ in outputs} | set(updates.values())
        steps = link_runs(steps, constants, kept)
        return Program(steps, constants, len(slots), inputs, states, updates, outputs, allocations, self.report)


def _packing(
    function: Callable[..., Any], positional: list[str], names: list[str], bound: BoundKernel
) -> Callable[..., Any]:
    places = {positional.index(name): name for name in names}

    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*(bound.ready_weight(places[n], a) if n in places else a for n, a in enumerate(args)), **kwargs)

    return run


def _by_name(function: Callable[..., Any], positional: int, names: tuple[str, ...]) -> Callable[..., Any]:
    """Give trailing arguments by keyword."""
    return lambda *args: function(*args[:positional], **dict(zip(names, args[positional:], strict=True)))


def _copy(name: str, kind: ArrayType, home: str, needed: str, backends: Mapping[str, Backend], slots: Slots) -> Step:
    """An explicit move of a value between host and backends."""
    backend = backends[home if needed == HOST else needed]

    def move(value: Any) -> Any:
        host = value if home == HOST else backends[home].to_numpy(value)
        return host if needed == HOST else backend.from_numpy(host)

    what = f"{name} {home}->{needed}"
    ends = (slots[name, home],), (slots[name, needed],)
    return Step("copy", what, f"copy {home}->{needed}", backend, move, *ends, outputs=("value",), types=(kind,))
