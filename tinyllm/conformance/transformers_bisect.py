"""Where a program departs from transformers by itself: what comes into each part of it is replaced by transformers'.

First every layer is given the hidden state that transformers' layer has, so that a layer departs for its own fault
alone. Then, within a layer that does, every node whose weight is that of one of transformers' modules is held to what
this module is given and gives, and what it gives is put into its place. The nodes between the last values that were
replaced and the first that departs are suspects. Some graphs reach a layer's output in another way than transformers'
modules do; so what a module says counts in layers that depart alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.conformance.compared_model import ComparedModel, make_steps, runner_of
from tinyllm.conformance.model_diff import layer_of
from tinyllm.conformance.transformers_diff import (
    DEPARTS,
    Array,
    apart,
    hidden_states,
    open_theirs,
    our_states,
    state_names,
)
from tinyllm.graph.graph import Node
from tinyllm.graph.observe import Ran
from tinyllm.graph.program import Program
from tinyllm.plugins.backend import on_host


@dataclass(frozen=True)
class Departure:
    """A part that departs, whatever came before it.

    where: `layer 3`, `embedding`, `final norm`, `logits`. part: the module that departs, or whose input does; empty
    where no module tells. suspects: the nodes that make it. difference: of the token that is furthest apart, relative
    to its size.
    """

    where: str
    part: str
    suspects: tuple[str, ...]
    difference: float


@dataclass
class Theirs:
    """What transformers computes for a prompt: its hidden states and logits, and by the name of a module within the
    layers (`layers.0.mlp.down_proj`) what it was given and gave. angles: cosines and sines of rotary embeddings."""

    states: dict[int, Array] = field(default_factory=dict)
    given: dict[str, Array] = field(default_factory=dict)
    made: dict[str, Array] = field(default_factory=dict)
    angles: list[tuple[Array, Array]] = field(default_factory=list)


def their_parts(path: Path, ids: Sequence[int]) -> Theirs:
    """Run transformers. Raises as `open_theirs` does."""
    theirs, calls = Theirs(), dict[str, int]()
    model, run = open_theirs("bisect", path)

    def module(name: str) -> Callable[..., None]:
        def ran(module: Any, args: tuple[Any, ...], output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            seen: tuple[tuple[dict[str, Array], Any], ...] = (
                (theirs.given, next(iter(args), None)),
                (theirs.made, output),
            )
            for kept, value in seen:
                if hasattr(value, "detach") and value.is_floating_point():
                    kept[name] = value.detach().double().numpy()

        return ran

    def rotary(module: Any, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, tuple) and len(output) == 2:
            cos, sin = (part.detach().double().numpy() for part in output)
            theirs.angles.append((cos[0], sin[0]))

    for path_of, each in model.named_modules():
        if getattr(each, "weight", None) is not None and _in_layers(path_of):
            each.register_forward_hook(module(_in_layers(path_of)))
        elif path_of.endswith("rotary_emb"):
            each.register_forward_hook(rotary)
    theirs.states = hidden_states(run(ids))
    for name in (name for name, count in calls.items() if count != 1):
        theirs.given.pop(name, None)
        theirs.made.pop(name, None)
    return theirs


def bisect_with_transformers(
    model: ComparedModel, program: Program, ids: Sequence[int], wanted: Callable[[str], bool] = lambda name: True
) -> list[Departure]:
    """The parts that depart by themselves in the order in which they run, of each layer the first; none where nothing
    differs.

    wanted: whether a node of this name may be guilty.

    Raises:
        TinyllmError: transformers is not installed, cannot read the checkpoint, or has other layers.
    """
    theirs = their_parts(model.path, ids)
    names = state_names(model, theirs.states)
    last, norm = f"layer {len(model.opened.config.layers) - 1}", "final norm"
    order = [*names.values()]
    order.insert(-2, last)
    mine = our_states(model, program, ids)
    states = {node: (number, names[number]) for number, (node, _) in mine.items() if number in names}
    by_state = _Patched(model, theirs, states).run(program, ids)
    guilty = {found.where for found in by_state}
    if last in guilty:  # between it and the norm behind it transformers shows no state
        guilty.add(norm)
    by_module = _Patched(model, theirs, states, by_module=True).run(program, ids) if guilty else []
    by_module = [found for found in by_module if found.where in guilty]
    told = {found.where for found in by_module}
    if told & {last, norm}:
        told |= {last, norm}
    firsts: dict[str, Departure] = {}
    for found in (*by_module, *(found for found in by_state if found.where not in told)):
        if any(wanted(name) for name in found.suspects):
            firsts.setdefault(found.where, found)
    return sorted(firsts.values(), key=lambda found: order.index(found.where))


@dataclass
class _Patched:
    """A step in which transformers' values take the place of outputs once these were compared.

    states: by node the number of a hidden state that it makes, and what that is called. by_module: whether modules are
    held to transformers', too. replaced: names of the values that are transformers'.
    """

    model: ComparedModel
    theirs: Theirs
    states: Mapping[str, tuple[int, str]]
    by_module: bool = False
    found: list[Departure] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    turned: dict[str, bool] = field(default_factory=dict)
    """Of each node that makes angles, whether they are transformers'; nothing where that cannot be told."""

    def run(self, program: Program, ids: Sequence[int]) -> list[Departure]:
        """The departures of a prompt."""
        (step,) = make_steps(ids, 0, rows=len(ids))
        runner_of(program, [step]).step(step, self, True)
        return self.found

    def __call__(self, ran: Ran) -> dict[str, Any] | None:
        """Compare a node that ran; what its output is replaced by."""
        if ran.node.asked is None:
            return None
        node = self.model.nodes[ran.node.name]
        name, output = next(iter(ran.outputs.items()))
        ours = np.array(on_host(ran.node.backend, output), np.float64)
        if node.op == "rope_angles":
            self._judge_angles(node.name, [on_host(ran.node.backend, value) for value in ran.outputs.values()])
        put = None
        modules = _modules(node, self.model) if self.by_module else []
        if modules:
            given = _like(self.theirs.given.get(modules[0]), ran.inputs.get("x"), ran)
            right = given is None or self._holds(node.name, f"input of {_told(modules)}", node.inputs["x"], *given)
            put = _joined([self.theirs.made.get(module) for module in modules], ours)
            if put is not None and right:
                self._compare(node.name, _told(modules), (node.name,), ours, put)
        if node.name in self.states:
            wanted = self.theirs.states[self.states[node.name][0]]
            if put is None:
                self._compare(node.name, "", self._behind(node.outputs[0]), ours, wanted)
            put = wanted
        if put is None:
            return None
        self.replaced.add(node.outputs[0])
        return {name: ran.node.backend.from_numpy(np.ascontiguousarray(put.astype(output_dtype(ran, output))))}

    def _holds(self, node: str, part: str, value: str, ours: Array, theirs: Array) -> bool:
        """Whether a value that goes into a node is transformers'."""
        suspects = self._behind(value)
        return not suspects or self._compare(node, part, suspects, ours, theirs)

    def _compare(self, node: str, part: str, suspects: tuple[str, ...], ours: Array, theirs: Array) -> bool:
        difference = apart(ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1))[0]
        if difference <= DEPARTS:
            return True
        layer = layer_of(node)
        named = f"layer {layer}" if layer is not None else self.states.get(node, (0, "final norm"))[1]
        inside = [layer_of(name) for name in suspects]
        if layer is None and any(number is not None for number in inside):  # what is left of the last layer
            named = f"layer {max(number for number in inside if number is not None)}"
        self.found.append(Departure(named, part, suspects, difference))
        return False

    def _behind(self, value: str) -> tuple[str, ...]:
        """The nodes that make a value of those that were replaced, in the order in which they run; where the angles of
        the rope are others than transformers', those alone."""
        made = {output: node for node in self.model.merged.nodes for output in node.outputs}
        found, queue = set(), [value]
        while queue:
            name = queue.pop()
            if name in made and name not in self.replaced and made[name].name not in found:
                found.add(made[name].name)
                queue += made[name].inputs.values()
        wrong = [name for name in found if self.turned.get(name) is False]
        kept = wrong or [name for name in found if not self.turned.get(name)]
        return tuple(node.name for node in self.model.merged.nodes if node.name in kept)

    def _judge_angles(self, node: str, ours: Sequence[NDArray[Any]]) -> None:
        """transformers has each angle twice: in halves or side by side."""
        tokens, half = len(ours[0]), ours[0].shape[-1]
        told = [pair for pair in self.theirs.angles if pair[0].shape == (tokens, 2 * half)]
        forms = [[part[:, cut] for part in pair] for pair in told for cut in (slice(half), slice(None, None, 2))]
        if forms:
            self.turned[node] = any(
                all(apart(a.reshape(tokens, half), b)[0] <= DEPARTS for a, b in zip(ours, form, strict=True))
                for form in forms
            )


def output_dtype(ran: Ran, output: Any) -> Any:
    """The numpy dtype of a node's output."""
    return on_host(ran.node.backend, output).dtype


def _in_layers(name: str) -> str:
    """What a module is called from its layer on: `layers.0.mlp.down_proj`; of the last norm its name."""
    return name[name.index("layers.") :] if "layers." in name else "norm" if name.endswith(".norm") else ""


def _modules(node: Node, model: ComparedModel) -> list[str]:
    """The modules whose weights a node multiplies by or scales with, by the names that tensors have in the checkpoint;
    several where calls were merged."""
    weights = [model.merged.weights[name] for name in node.inputs.values() if name in model.merged.weights]
    parts = [part for weight in weights if weight.value is None for part in weight.tensors if part.endswith(".weight")]
    tensors = [tensor for part in parts for tensor in model.source.sources(part)]
    names = tensors if all("layers." in tensor for tensor in tensors) else parts  # GGUF files have other names
    found = dict.fromkeys(_in_layers(name.removesuffix(".weight")) for name in names)
    return [*found] if all(found) else []


def _told(modules: Sequence[str]) -> str:
    """Without their layer: `self_attn.q_proj, self_attn.k_proj`."""
    return ", ".join(".".join(m.split(".")[2:]) or m for m in modules)


def _shaped(theirs: Array | None, shape: tuple[int, ...]) -> Array | None:
    """transformers' array, of a batch of one, as the program has it; None where it is of another size."""
    if theirs is None or theirs.size != np.prod(shape):
        return None
    array = theirs[0] if theirs.shape[0] == 1 else theirs
    if array.ndim == 3 and array.shape[0] != shape[0]:
        array = array.swapaxes(0, 1)
    return array.reshape(shape) if array.shape[0] == shape[0] else None


def _like(theirs: Array | None, ours: Any, ran: Ran) -> tuple[Array, Array] | None:
    """An input of the program beside transformers'; None where they cannot be compared."""
    if ours is None:
        return None
    mine = np.array(on_host(ran.node.backend, ours), np.float64)
    wanted = _shaped(theirs, mine.shape)
    return None if wanted is None else (mine, wanted)


def _joined(parts: Sequence[Array | None], ours: Array) -> Array | None:
    """What several modules give, side by side as a merged node gives it."""
    rows = [None if part is None else part.reshape(-1, part.shape[-1]) for part in parts]
    if len(rows) == 1:
        return _shaped(parts[0], ours.shape)
    if any(row is None or len(row) != len(ours) for row in rows):
        return None
    return _shaped(np.concatenate([row for row in rows if row is not None], axis=-1), ours.shape)
