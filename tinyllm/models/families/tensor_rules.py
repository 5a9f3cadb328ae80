"""Where a graph's weights are in a family's files: names, merged and stacked tensors, the order of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.models.decoder.config import AttentionConfig, Mixer

RowOrder = Callable[[Mixer, int], NDArray[np.intp]]
LAYER = "model.layers.{layer}."
ENDINGS = (".weight", ".bias")


@dataclass(frozen=True)
class TensorRule:
    """A tensor of a file, and the weights of the graph that it holds.

    tensor: its name in the file, `{layer}` and `{expert}` standing for numbers. With `{expert}` there is a tensor for
        each expert, and the weight is the stack of them.
    weights: the graph's names. Several: they lie one below another in the tensor's rows. Where both names lack an
        ending, the rule holds for `.weight` and `.bias` alike.
    interleaved: rows of several weights take turns.
    transposed: the last two axes of the file's tensor are the other way round; None: they are where its shape says so.
    squeezed: the file's tensor has an axis of size 1 before its last one.
    order: the order in which to take rows, of the layer's attention and their count; for several weights one for each.
    offset: added to the numbers. convert: what the weight's numbers are made of the file's by.
    """

    tensor: str
    weights: tuple[str, ...]
    interleaved: bool = False
    transposed: bool | None = False
    squeezed: bool = False
    order: RowOrder | tuple[RowOrder, ...] | None = None
    offset: float = 0.0
    convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None


@dataclass(frozen=True)
class Place:
    """Where a weight is: the rule, which of the rule's weights it is, its layer and ending."""

    rule: TensorRule
    share: int
    layer: int
    ending: str

    @property
    def of_experts(self) -> bool:
        """Whether each expert has a tensor of its own."""
        return "{expert}" in self.rule.tensor

    @property
    def is_plain(self) -> bool:
        """Whether the weight is the tensor as it is."""
        rule = self.rule
        moved = rule.interleaved or rule.transposed is not False or rule.squeezed or rule.order is not None
        changed = rule.offset != 0 or rule.convert is not None
        return len(rule.weights) == 1 and not (self.of_experts or moved or changed)

    def tensor(self, expert: int = 0) -> str:
        """The name of the file's tensor."""
        return self.rule.tensor.format(layer=self.layer, expert=expert) + self.ending

    def tensors(self, experts: int) -> tuple[str, ...]:
        """The names of all tensors that the weight is made of."""
        return tuple(map(self.tensor, range(experts))) if self.of_experts else (self.tensor(),)

    def weights(self) -> tuple[str, ...]:
        """The graph's names of all weights in the tensor."""
        return tuple(name.format(layer=self.layer) + self.ending for name in self.rule.weights)


def place_of(weight: str, rules: Sequence[TensorRule], present: Collection[str]) -> Place:
    """Where a weight is by the first rule for it whose tensor is there, or else the first; without any, under its own
    name."""
    found = [place for rule in rules for place in _matches(weight, rule)]
    own = Place(TensorRule(weight.replace("{", "{{").replace("}", "}}"), (weight,)), 0, 0, "")
    return next((place for place in found if place.tensor() in present), found[0] if found else own)


def name_alone(weight: str, rules: Sequence[TensorRule]) -> str | None:
    """A name under which a file may have a weight as it is, by itself and whole; None where the rules know of none."""
    for place in (*(place for rule in rules for place in _matches(weight, rule)), place_of(weight, (), ())):
        name = place.tensor()
        is_tensor = has_ending(name) or not has_ending(weight)  # stacks in a tensor without an ending are parameters
        if place.is_plain and is_tensor and place_of(weight, rules, {name}).tensor() == name:
            return name
    return None


def _matches(weight: str, rule: TensorRule) -> list[Place]:
    places = []
    for share, name in enumerate(rule.weights):
        match = _pattern(name, has_ending(name) or has_ending(rule.tensor)).fullmatch(weight)
        if match:
            groups = match.groupdict()
            places.append(Place(rule, share, int(groups.get("layer") or 0), groups.get("ending") or ""))
    return places


def has_ending(name: str) -> bool:
    """Whether a name says which of a module's tensors is meant."""
    return name.endswith(ENDINGS)


@lru_cache(maxsize=4096)
def _pattern(name: str, whole: bool) -> re.Pattern[str]:
    stem = re.escape(name).replace(r"\{layer\}", r"(?P<layer>\d+)")
    return re.compile(stem if whole else stem + r"(?P<ending>\.weight|\.bias)?")


def renamed(names: dict[str, str], **settings: Any) -> tuple[TensorRule, ...]:
    """Rules for modules of a layer that have another name in the file: the graph's name to the file's, both within a
    layer."""
    return tuple(TensorRule(LAYER + theirs, (LAYER + ours,), **settings) for ours, theirs in names.items())


_QKV = tuple(f"{LAYER}self_attn.{name}_proj" for name in "qkv")
_GATE_UP = (f"{LAYER}mlp.gate_proj", f"{LAYER}mlp.up_proj")
MERGED_QKV = TensorRule(f"{LAYER}self_attn.qkv_proj", _QKV)
MERGED_GATE_UP = TensorRule(f"{LAYER}mlp.gate_up_proj", _GATE_UP)
GGUF_MERGED_QKV = TensorRule("blk.{layer}.attn_qkv", _QKV)
GGUF_MERGED_GATE_UP = TensorRule("blk.{layer}.ffn_up", _GATE_UP)


def interleaved_pairs(attention: Mixer, rows: int) -> NDArray[np.intp]:
    """The order of rows of `q_proj` and `k_proj` whose heads were stored for rotation by neighbours: in a head, row 2i
    is row i here, and 2i + 1 row i + D / 2. Those of `attention.rope.dims` are concerned."""
    if not isinstance(attention, AttentionConfig):
        raise TypeError(f"expected attention, got {attention}")
    dim = attention.head_dim
    turned = dim if attention.rope is None else attention.rope.dims
    of_head = np.concatenate([np.arange(0, turned, 2), np.arange(1, turned, 2), np.arange(turned, dim)])
    order: NDArray[np.intp] = (np.arange(0, rows, dim)[:, None] + of_head).reshape(-1)
    return order
