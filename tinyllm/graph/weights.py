"""Loads a graph's weights in the forms that its kernels want, one after the other, so that one source is held at a
time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from tinyllm.catalogue.schemes.halves import HALVES
from tinyllm.errors import CheckpointError, PluginError, UnsupportedError
from tinyllm.graph.graph import Graph, Node, Weight
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.packed_format import in_memory
from tinyllm.graph.program import Report
from tinyllm.plugins.backend import Backend
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.choice import Form
from tinyllm.spec.quantized import stack
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType

WeightKey = tuple[Any, ...]
"""A weight's name, where its arrays live, and what makes its form: nodes of one key share one form."""


class WeightSource(Protocol):
    """Where weights come from: a `Checkpoint`, or anything with these four."""

    identity: str
    """What tells its numbers from those of any other source; empty: nothing does, and packed forms are not kept in
    files."""

    def info(self, name: str) -> Any:
        """An object whose `type` is the tensor's `ArrayType` or `QuantType`."""

    def read(self, name: str) -> Any:
        """The tensor: a float numpy array or a `QuantWeight` of numpy arrays."""

    def release(self) -> None:
        """What was read is packed by now: memory that can be had again may go."""


@dataclass(frozen=True)
class _Use:
    """One reading of a weight: by which node, for which input."""

    node: Node
    input: str
    bound: BoundKernel


def place(backend: Backend) -> str:
    """Where a backend's arrays live: two devices of one library are two places."""
    return f"{backend.name}:{backend.device}"


def weight_key(name: str, bound: BoundKernel, input_name: str) -> WeightKey:
    """The key of a weight as one kernel reads it."""
    return name, place(bound.backend), bound.form_key(input_name)


def stored_type(graph: Graph, name: str, source: WeightSource, halves: bool = False) -> ArrayType | QuantType:
    """The type of a weight as the checkpoint holds it, its floats and numbers in the dtype that the graph states.

    halves: floats of 16 bits stay so where the graph's are float32, by a scheme of `HALVES`.
    """
    weight = graph.weights[name]
    if weight.value is not None:
        return ArrayType(weight.shape, weight.dtype)
    stored = source.info(weight.tensors[0]).type
    if isinstance(stored, QuantType):
        return QuantType(weight.shape, stored.scheme, weight.dtype)
    if halves and weight.dtype == "float32" and stored.dtype in HALVES:
        return QuantType(weight.shape, HALVES[stored.dtype], weight.dtype)
    return ArrayType(weight.shape, weight.dtype)


def load_weights(
    graph: Graph,
    source: WeightSource,
    bound: Mapping[str, BoundKernel],
    files: PackedFiles | None,
    report: Report,
    progress: Callable[[int, int], None],
) -> dict[WeightKey, Any]:
    """Every weight in every form that a node's kernel wants.

    bound: per node its kernel. files: packed forms on disk. report: told what was expanded, and what is held twice.

    Raises:
        CheckpointError: a weight that does not fit its node. UnsupportedError: weights that cannot be stacked.
    """
    uses: dict[str, list[_Use]] = {}
    for node in graph.nodes:
        for input_name, name in node.inputs.items():
            if name in graph.weights:
                uses.setdefault(name, []).append(_Use(node, input_name, bound[node.name]))
    loaded: dict[WeightKey, Any] = {}
    for done, (name, users) in enumerate(uses.items(), 1):
        loaded |= _load(graph, graph.weights[name], users, source, files, report)
        source.release()
        progress(done, len(uses))
    report.written = files.written if files else 0
    return loaded


def _load(
    graph: Graph,
    weight: Weight,
    users: list[_Use],
    source: WeightSource,
    files: PackedFiles | None,
    report: Report,
) -> dict[WeightKey, Any]:
    forms: dict[WeightKey, _Use] = {}
    for use in users:
        forms.setdefault(weight_key(weight.name, use.bound, use.input), use)
    stored: list[Any] = []

    def read() -> Any:
        """The weight itself, read when it is first needed: a packed form that lies in a file needs none."""
        if not stored:
            stored.append(read_weight(weight, users[0].bound.call.inputs[users[0].input], source))
        return stored[0]

    loaded = {}
    for key, use in forms.items():
        loaded[key] = _ready(use, read, weight.name, source, files)
        if stored and isinstance(stored[0], QuantWeight) and use.bound.choice.form is Form.EXPANDED:
            scheme = f"{stored[0].scheme} on {use.bound.choice.id}"
            before, after = report.expanded.get(scheme, (0, 0))
            report.expanded[scheme] = before + stored[0].nbytes, after + 4 * int(np.prod(weight.shape))
    if len(forms) > 1:
        kernels = ", ".join(use.bound.choice.id for use in forms.values())
        report.second_copies.append(f"{weight.name}: {kernels}")
    return loaded


def read_weight(weight: Weight, kind: ArrayType | QuantType | None, source: WeightSource) -> Any:
    """A weight as the checkpoint holds it, its parts below one another: a float numpy array or a `QuantWeight`.

    kind: what a node takes it for: floats of 16 bits may be taken for a scheme.

    Raises:
        CheckpointError: it does not fit its node. UnsupportedError: parts that cannot be stacked.
    """
    tensor = _tensor(weight, source)
    if isinstance(tensor, QuantWeight):
        tensor = replace(tensor, dtype=weight.dtype)
    elif isinstance(kind, QuantType):
        tensor = HALVES[kind.scheme.name].of(tensor, weight.dtype)
    if tuple(tensor.shape) != weight.shape:
        wanted, got = list(weight.shape), list(tensor.shape)
        raise CheckpointError(f"weight {weight.name}: expected shape {wanted}, got {got}")
    return tensor


def _tensor(weight: Weight, source: WeightSource) -> Any:
    if weight.value is not None:
        return np.full(weight.shape, weight.value, np.float32)
    return merge([source.read(name) for name in weight.tensors])


def _ready(use: _Use, read: Callable[[], Any], name: str, source: WeightSource, files: PackedFiles | None) -> Any:
    kernel = use.bound.choice.kernel
    if not (kernel and kernel.layout and use.input in use.bound.packed):
        return use.bound.program_weight(use.input, read())
    form = f"{use.bound.call.inputs[use.input]} of {use.bound.call.dtype(use.input)}"
    key = (source.identity, name, form, kernel.layout)
    kept = files if source.identity else None
    arrays = kept.find(*key) if kept else None
    if arrays is None:
        arrays = use.bound.program_weight(use.input, read())
        if not isinstance(arrays, dict) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
            got = type(arrays).__name__
            raise PluginError(
                f"kernel {kernel.id}: prepare: expected numpy arrays by name, as it states a layout, got {got}"
            )
        arrays = kept.keep(arrays, *key) if kept else in_memory(arrays)
    return arrays


def merge(parts: list[Any]) -> Any:
    """Tensors below one another along their first axis; one alone as it is."""
    if len(parts) == 1:
        return parts[0]
    if not any(isinstance(part, QuantWeight) for part in parts):
        return np.concatenate(parts)
    stacked = stack(parts)
    if stacked is None:
        raise UnsupportedError("merged weights: columns in an order of their own cannot be stacked")
    return stacked
