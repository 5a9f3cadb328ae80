"""What is written of a model: which tensors, under which names, and which of them become integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue import CATALOGUE
from tinyllm.errors import CheckpointError, UnknownNameError, UnsupportedError, invalid
from tinyllm.graph.graph import Graph
from tinyllm.models.checkpoints.model_weights import HEAD, Tensor
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families.families import family_of
from tinyllm.models.families.family import Family
from tinyllm.models.families.tensor_rules import Place, TensorRule, has_ending, name_alone, place_of
from tinyllm.models.open_model import OpenModel
from tinyllm.spec.quantized import dense, take_rows
from tinyllm.spec.scheme import QuantType, QuantWeight, Scheme

_EXPERTS, _LAYERS = ".mlp.experts.", "layers."
_ROUTERS = (".mlp.gate.weight", ".mlp.shared_expert_gate.weight")
"""What chooses among experts stays as it is: it is small, and another choice changes all that comes after it."""
_BLOCK = 2**20
"""Most numbers that are floats at a time, where rows are shorter."""


@dataclass(frozen=True)
class Output:
    """A tensor that is written.

    name: in the new files. sources: what it is made of, by the names of the old ones. dtype: of its floats; float16
    where they are integers in the old files. parts: reads it, in parts that follow one another.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    quantized: bool
    parts: Callable[[], Iterable[Tensor]]

    def rows(self) -> Iterator[NDArray[np.float32]]:
        """Its numbers as float32 `[R, K]`, some rows at a time."""
        for part in self.parts():
            yield from float_rows(part)


class Plan:
    """What is made of a model.

    matrices: tensors of its files that ops take quantized, by the files' names.
    """

    def __init__(self, opened: OpenModel, families: Sequence[Family]) -> None:
        graph = decoder(opened.config, CATALOGUE)
        self.opened, self.checkpoint, self.shapes = opened, opened.checkpoint, graph.tensors()
        self.weights = opened.weights(self.shapes)
        self.weights.check()
        self._rules = family_of(self.checkpoint.config, families).rules("safetensors")
        self._quantized = _matrices(graph)
        self._head = place_of(HEAD, opened.rules, frozenset(self.checkpoint.tensor_names())).tensor()
        self.matrices = {self._head, *(name for weight in self._quantized for name in self.weights.sources(weight))}

    def of_gguf(self) -> list[Output]:
        """The tensors of a GGUF file for another one."""
        return [self._as_it_is(name) for name in self.checkpoint.tensor_names()]

    def by_rules(self, rules: Sequence[TensorRule]) -> list[Output]:
        """The tensors of a model by the names, the order of rows and the merged tensors that rules of GGUF files have.
        What no op takes quantized is float32 there.

        Raises `CheckpointError` for a form that is not written.
        """
        places = (place_of(weight, rules, ()) for weight in self.shapes)
        made = [self._placed(name, place) for name, place in {each.tensor(): each for each in places}.items()]
        return [each if each.quantized else replace(each, dtype="float32") for each in made]

    def of_folder(self) -> list[Output]:
        """The tensors of a folder.

        Those of a folder keep their names, but for experts that lie one by one or turned round, which MLX has in a
        stack for each projection. Those of a GGUF file get the names that the family's folders have.

        Raises `CheckpointError` for a tensor that cannot be written so.
        """
        if self.checkpoint.format == "gguf":
            alone = {weight: name_alone(weight, self._rules) for weight in self.shapes}
            merged = {(place := place_of(w, self._rules, ())).tensor(): place for w, name in alone.items() if not name}
            made = [self._weight(weight, name) for weight, name in alone.items() if name]
            return [*made, *(self._placed(name, place) for name, place in merged.items())]
        made = [self._weight(weight, self._stack(weight)) for weight in self.shapes if self._is_stacked(weight)]
        written = {name for output in made for name in output.sources}
        if self.opened.config.tie_word_embeddings:  # a head in the file repeats the embedding
            written.add(self._head)
        return [*made, *(self._as_it_is(name) for name in self.checkpoint.tensor_names() if name not in written)]

    def _as_it_is(self, name: str) -> Output:
        shape = self.checkpoint.info(name).shape
        quantized = name in self.matrices and len(shape) > 1
        read = partial(self._read, self.checkpoint.read, name)
        return Output(self.checkpoint.name_in_file(name), (name,), shape, self._dtype(name), quantized, read)

    def _weight(self, weight: str, name: str) -> Output:
        """A weight of the graph by itself, whatever its tensors are."""
        sources, read = self.weights.sources(weight), partial(self._read, self.weights.read, weight)
        quantized = weight in self._quantized
        return Output(name, sources, self.shapes[weight], self._dtype(sources[0]), quantized, read)

    def _placed(self, name: str, place: Place) -> Output:
        """The weights of a tensor as its rule has them: in the order of its rows, and below one another."""
        rule, weights = place.rule, place.weights()
        moved = place.of_experts or rule.interleaved or rule.transposed is not False or rule.convert is not None
        if moved or isinstance(rule.order, tuple):
            raise CheckpointError(
                f"{self.checkpoint.path}: {weights[0]}: files of this family have it in a form that is not written"
            )
        made = [self._weight(weight, name) for weight in weights]
        shape = list(made[0].shape)
        axis = -2 if len(shape) > 1 else -1
        if rule.order is not None:
            order = np.argsort(rule.order(self.opened.config.layers[place.layer].attention, shape[axis]))
            made = [replace(made[0], parts=partial(_ordered, made[0].parts, order))]
        if rule.offset:
            made = [replace(each, parts=partial(_less, each.parts, rule.offset)) for each in made]
        shape[axis] = sum(each.shape[axis] for each in made)
        if rule.squeezed:
            shape.insert(-1, 1)
        if len(made) == 1:
            return replace(made[0], shape=tuple(shape))
        sources = tuple(source for each in made for source in each.sources)
        read = partial(_merged_parts, [each.parts for each in made])
        return replace(made[0], sources=sources, shape=tuple(shape), parts=read)

    def _is_stacked(self, weight: str) -> bool:
        place = self.weights.place(weight)
        odd = place.of_experts or place.rule.transposed is not False or not has_ending(place.tensor())
        return _EXPERTS in weight and odd

    def _stack(self, weight: str) -> str:
        """The name of a stack of experts, with the beginning that the file's names have."""
        name, source = name_alone(weight, self._rules), self.weights.sources(weight)[0]
        if name is None:
            raise CheckpointError(f"{self.checkpoint.path}: {source}: MLX's format has no form for it")
        return self.checkpoint.name_in_file(source).partition(_LAYERS)[0] + name[name.index(_LAYERS) :]

    def _dtype(self, name: str) -> str:
        kind = self.checkpoint.info(name).type
        return "float16" if isinstance(kind, QuantType) else kind.dtype

    def _read(self, read: Callable[[str], Tensor], name: str) -> Iterator[Tensor]:
        yield read(name)
        self.checkpoint.release()


def keep(outputs: list[Output], patterns: Iterable[str]) -> list[Output]:
    """The tensors, those not to be quantized that patterns such as `lm_head.*` name, by a new name or an old one.

    Raises `UnknownNameError` for a pattern that names none.
    """
    made = outputs
    for pattern in patterns:
        named = {each.name for each in outputs if any(fnmatchcase(n, pattern) for n in (each.name, *each.sources))}
        if not named:
            raise UnknownNameError(
                f"--keep: expected a pattern of names such as {outputs[0].name} and {outputs[-1].name}, got "
                f"{pattern!r}, which is none of them"
            )
        made = [replace(each, quantized=each.quantized and each.name not in named) for each in made]
    return made


def check_rows(outputs: list[Output], scheme: Scheme) -> None:
    """Raises `InvalidInputError` for a tensor whose rows a scheme cannot hold."""
    for each in outputs:
        if each.quantized and (each.shape[-1] % scheme.block or scheme.check_parameters(each.shape)):
            expected = f"rows that groups of {scheme.block} divide (--keep {each.name} leaves it as it is)"
            raise invalid("quantize", each.name, expected, each.shape[-1])


def _matrices(graph: Graph) -> set[str]:
    """Weights of a graph that ops take quantized."""
    read = {
        node.inputs[each.name]
        for node in graph.nodes
        for each in CATALOGUE[node.op].inputs
        if each.kind == "weight" and each.name in node.inputs
    }
    return {name for name in read & graph.weights.keys() if not name.endswith(_ROUTERS)}


def _ordered(read: Callable[[], Iterable[Tensor]], order: NDArray[np.intp]) -> Iterator[Tensor]:
    for part in read():
        numbers = np.asarray(dense(np, part, np.float32))
        yield numbers[..., order, :] if numbers.ndim > 1 else numbers[order]


def _less(read: Callable[[], Iterable[Tensor]], offset: float) -> Iterator[Tensor]:
    for part in read():
        yield np.asarray(dense(np, part, np.float32)) - np.float32(offset)


def _merged_parts(reads: list[Callable[[], Iterable[Tensor]]]) -> Iterator[Tensor]:
    tensors = [part for read in reads for part in read()]
    if len(tensors[0].shape) < 3:
        yield from tensors
        return
    for number in range(tensors[0].shape[0]):
        yield from (_matrix(tensor, number) for tensor in tensors)


def _matrix(tensor: Tensor, number: int) -> Tensor:
    return tensor.matrix(number) if isinstance(tensor, QuantWeight) else tensor[number]


def float_rows(tensor: Tensor) -> Iterator[NDArray[np.float32]]:
    """The numbers of a matrix or a stack as float32 `[R, K]`, some rows at a time."""
    count, columns = tensor.shape[-2:]
    if len(tensor.shape) > 2:
        for number in range(tensor.shape[0]):
            yield from float_rows(_matrix(tensor, number))
        return
    step = max(1, _BLOCK // columns)
    for start in range(0, count, step):
        try:
            block = take_rows(tensor, slice(start, start + step))
        except UnsupportedError:  # rows that share their scales come together
            yield np.asarray(dense(np, tensor, np.float32), np.float32)
            return
        yield np.asarray(dense(np, block, np.float32), np.float32)
