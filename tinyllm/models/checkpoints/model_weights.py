"""A checkpoint's tensors as the weights of a graph: found by a family's rules, cut, stacked and put in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.checkpoint import Checkpoint, TensorInfo, check_tensors
from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, MoeConfig
from tinyllm.models.families.tensor_rules import Place, TensorRule, place_of
from tinyllm.spec.quantized import dense, take_rows
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_ROWS = 256

Tensor = NDArray[Any] | QuantWeight


class ModelWeights:
    """The weights of a graph, by its names, as a `WeightSource`.

    Args:
        rules: of the checkpoint's family and format.
        shapes: of all weights, as `Graph.tensors` gives them.
        skipped: beginnings of the names of tensors that belong to no decoder.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        rules: Sequence[TensorRule],
        config: DecoderConfig,
        shapes: Mapping[str, tuple[int, ...]],
        skipped: tuple[str, ...] = (),
    ) -> None:
        self._checkpoint, self._config, self._shapes = checkpoint, config, shapes
        self.identity = checkpoint.identity
        present = frozenset(checkpoint.tensor_names())
        self._places = {weight: place_of(weight, rules, present) for weight in shapes}
        # where the embedding is the head as well, a head in the file repeats it
        others = {name for name in present if name.startswith(skipped)}
        others |= {place_of(weight, rules, present).tensor() for weight in _unread(config)}
        self._unused = (others | {place_of(HEAD, rules, present).tensor()}) - self.tensors().keys()

    def check(self) -> list[str]:
        """Holds the checkpoint against the tensors that the weights are made of; gives the names of those that are
        skipped. Raises `CheckpointError` as `check_tensors` does."""
        return check_tensors(self._checkpoint, self.tensors(), self._unused)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The tensors that the weights are made of, with the shapes that the file must have."""
        wanted: dict[str, tuple[int, ...]] = {}
        for weight, place in self._places.items():
            shape = self._whole(weight, place)
            if self._is_transposed(weight, place):
                shape[-2:] = shape[:-3:-1]
            if place.rule.squeezed:
                shape.insert(-1, 1)
            names = self._tensors_of(place)
            wanted |= dict.fromkeys(names, tuple(shape[1:] if place.of_experts else shape))
        return wanted

    def info(self, name: str) -> TensorInfo:
        """The type of a weight, and the bytes of its share of the file."""
        infos = [self._checkpoint.info(tensor) for tensor in self.sources(name)]
        shape, kind = self._shapes[name], infos[0].type
        if len({info.dtype for info in infos}) > 1:
            kind = ArrayType(shape, "float32")  # as `read` gives them
        shared = len(self._places[name].rule.weights)
        nbytes = sum(info.nbytes for info in infos) // shared
        if isinstance(kind, QuantType):
            return TensorInfo(QuantType(shape, kind.scheme, kind.dtype), nbytes, infos[0].order)
        return TensorInfo(ArrayType(shape, kind.dtype), nbytes)

    def read(self, name: str) -> Tensor:
        """A weight. Raises `CheckpointError` where what the rules ask of a quantized tensor cannot be had."""
        place = self._places[name]
        tensors = [self._cut(name, place, self._checkpoint.read(tensor)) for tensor in self._tensors_of(place)]
        return _stacked(name, tensors) if place.of_experts else tensors[0]

    def place(self, name: str) -> Place:
        """Where a weight is."""
        return self._places[name]

    def sources(self, name: str) -> tuple[str, ...]:
        """The tensors that a weight is made of."""
        return self._tensors_of(self._places[name])

    def laid_out(self, read: Callable[[str], NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """The tensors of a file in which the rules find weights, which `read` gives by name."""
        wholes: dict[str, NDArray[np.float32]] = {}
        for weight, place in self._places.items():
            whole = wholes.setdefault(place.tensor(), np.empty(self._whole(weight, place), np.float32))
            axis = self._row_axis(weight)
            rows = self._rows(weight, place, axis)
            where = ... if rows is None else (..., rows, slice(None)) if axis == -2 else (..., rows)
            whole[where] = read(weight) - np.float32(place.rule.offset)
        made: dict[str, NDArray[np.float32]] = {}
        for weight, place in self._places.items():
            whole = wholes[place.tensor()]
            whole = whole.swapaxes(-1, -2) if self._is_transposed(weight, place) else whole
            whole = np.expand_dims(whole, -2) if place.rule.squeezed else whole
            parts = list(whole) if place.of_experts else [whole]
            made |= dict(zip(self._tensors_of(place), parts, strict=True))
        return made

    def release(self) -> None:
        """Let go of the file's pages in memory."""
        self._checkpoint.release()

    def _whole(self, weight: str, place: Place) -> list[int]:
        """The shape of all weights of a rule together."""
        shape, axis = list(self._shapes[weight]), self._row_axis(weight)
        if len(place.rule.weights) > 1:
            shape[axis] = sum(self._shapes[name][axis] for name in place.weights())
        return shape

    def _is_transposed(self, weight: str, place: Place) -> bool:
        whole, name = self._whole(weight, place), place.tensor()
        if len(whole) < 2 or place.rule.transposed is not None:
            return len(whole) > 1 and bool(place.rule.transposed)
        if name not in self._checkpoint.tensor_names():
            return False
        return list(self._checkpoint.info(name).type.shape) == [*whole[:-2], whole[-1], whole[-2]] != whole

    def _row_axis(self, weight: str) -> int:
        return -1 if weight.endswith("bias") or len(self._shapes[weight]) == 1 else -2

    def _tensors_of(self, place: Place) -> tuple[str, ...]:
        mlp = self._config.layers[min(place.layer, self._config.num_layers - 1)].mlp
        return place.tensors(mlp.num_experts if isinstance(mlp, MoeConfig) else 0)

    def _cut(self, name: str, place: Place, tensor: Tensor) -> Tensor:
        rule, axis = place.rule, self._row_axis(name)
        if self._is_transposed(name, place):
            if isinstance(tensor, QuantWeight):
                raise CheckpointError(f"{self._checkpoint.path}: {name}: a quantized tensor cannot be transposed")
            tensor = np.swapaxes(tensor, -1, -2)
        if rule.squeezed and not isinstance(tensor, QuantWeight):
            tensor = tensor.squeeze(-2)
        rows = self._rows(name, place, axis)
        if rows is not None:
            tensor = take_rows(tensor, rows) if axis == -2 else tensor[..., rows]  # type: ignore[index]
        if rule.offset or rule.convert:
            if isinstance(tensor, QuantWeight):
                raise CheckpointError(f"{self._checkpoint.path}: {name}: expected floats, got {tensor.scheme}")
            tensor = tensor.astype(np.float32) + np.float32(rule.offset)
        return rule.convert(tensor) if rule.convert and isinstance(tensor, np.ndarray) else tensor

    def _rows(self, name: str, place: Place, axis: int) -> slice | NDArray[np.intp] | None:
        """Which rows of a tensor are the weight's; None: all as they are."""
        rule, rows = place.rule, self._shapes[name][axis]
        if rule.order is not None:
            order = rule.order[place.share] if isinstance(rule.order, tuple) else rule.order
            return order(self._config.layers[place.layer].attention, rows)
        if len(rule.weights) == 1:
            return None
        if rule.interleaved:
            return slice(place.share, None, len(rule.weights))
        start = sum(self._shapes[before][axis] for before in place.weights()[: place.share])
        return slice(start, start + rows)


def _stacked(name: str, tensors: list[Tensor]) -> Tensor:
    """Tensors as a stack along a new first axis; those of several forms, as old GGUF files of mixtures of experts have
    them, as floats."""
    forms = {str(t.scheme) if isinstance(t, QuantWeight) else t.dtype.name for t in tensors}
    if len(forms) > 1:
        stack = np.empty((len(tensors), *tensors[0].shape), np.float32)
        for place, tensor in zip(stack, tensors, strict=True):
            place[...] = dense(np, tensor, np.float32)
        return stack
    first = tensors[0]
    if not isinstance(first, QuantWeight):
        return np.stack(tensors)  # type: ignore[arg-type]
    shape = (len(tensors), *first.shape)
    parts = first.scheme.parts(shape)
    arrays = {}
    for part, array in first.arrays.items():
        same = [t.arrays.get(part) for t in tensors if isinstance(t, QuantWeight) and t.type == first.type]
        if len(same) < len(tensors) or any(other is None for other in same):
            raise CheckpointError(f"{name}: expected all experts as {first.scheme}, got some in another form")
        if parts[part].shape != (len(tensors), *array.shape):
            raise CheckpointError(f"{name}: {part}: {first.scheme} cannot hold it for each expert")
        arrays[part] = np.stack(same)  # type: ignore[arg-type]
    return QuantWeight(first.scheme, arrays, shape, first.dtype)


def _unread(config: DecoderConfig) -> list[str]:
    """What layers would have keys and values by that read those of others: files may have it nevertheless."""
    attentions = ((number, layer.attention) for number, layer in enumerate(config.layers))
    shared = [n for n, its in attentions if isinstance(its, AttentionConfig) and its.kv_layer is not None]
    names = ("k_proj.weight", "v_proj.weight", "k_norm.weight", "k_proj.bias", "v_proj.bias")
    return [f"model.layers.{number}.self_attn.{name}" for number in shared for name in names]


def has_tied_head(checkpoint: Checkpoint, rules: Sequence[TensorRule], stated: bool) -> bool:
    """Whether the embedding is the output matrix as well.

    The file has the last word: a head of its own counts, whatever the config says, and one that repeats the embedding
    is the embedding. Source: transformers, which ties no two tensors of a file that differ.

    Args:
        stated: what the config says, which holds where the file has no head.
    """
    present = frozenset(checkpoint.tensor_names())
    embedding_name, head_name = (place_of(name, rules, present).tensor() for name in (EMBEDDING, HEAD))
    if head_name not in present or embedding_name not in present:
        return stated
    if checkpoint.info(head_name).type != checkpoint.info(embedding_name).type:
        return False
    head, embedding = checkpoint.read(head_name), checkpoint.read(embedding_name)
    if isinstance(head, QuantWeight) and isinstance(embedding, QuantWeight):
        return all(_same_bytes(array, embedding.arrays[name]) for name, array in head.arrays.items())
    return isinstance(head, np.ndarray) and isinstance(embedding, np.ndarray) and _same_bytes(head, embedding)


def _same_bytes(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Whether two arrays of one dtype hold the same; looked at by rows, as most that differ do so in the first."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    rows = range(0, len(left), _ROWS)
    return all(left[row : row + _ROWS].tobytes() == right[row : row + _ROWS].tobytes() for row in rows)
