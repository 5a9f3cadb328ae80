"""A source of weights that gives only what one of several processes has of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from tinyllm.errors import UnsupportedError
from tinyllm.graph.graph import Graph
from tinyllm.graph.passes.tensor_parallel import Cut
from tinyllm.graph.weights import WeightSource
from tinyllm.spec.communicator import Communicator
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.quantized import take_columns, take_rows
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType


class WeightShare:
    """A `WeightSource` over another one.

    Args:
        cuts: per weight what this process has of it; it has those that are not named whole.
    """

    def __init__(self, source: WeightSource, cuts: Mapping[str, Cut], group: Communicator) -> None:
        self._source, self._cuts = source, cuts
        self.identity = f"{source.identity} {group.rank}/{group.ranks}" if source.identity else ""

    def info(self, name: str) -> Any:
        """The source's, with the type of the share.

        Raises:
            UnsupportedError: a quantized weight whose groups of columns would be cut apart.
        """
        info = self._source.info(name)
        cut = self._cuts.get(name)
        if cut is None:
            return info
        kind = info.type
        if cut.axis == -1 and isinstance(kind, QuantType) and (cut.stop - cut.start) % kind.scheme.block:
            raise UnsupportedError(
                f"tensor_parallel: {name}: its {kind.shape[-1]} columns, held as {kind.scheme}, cannot be shared out "
                f"as {cut.stop - cut.start} for each process: these are no whole groups of {kind.scheme.block}"
            )
        shape = list(kind.shape)
        shape[cut.axis] = cut.stop - cut.start
        return replace(info, type=replace(kind, shape=tuple(shape)))

    def read(self, name: str) -> Any:
        """The share. Raises `UnsupportedError` where it cannot be taken out of a quantized weight."""
        tensor, cut = self._source.read(name), self._cuts.get(name)
        if cut is None:
            return tensor
        try:
            return take_rows(tensor, cut.columns) if cut.axis == -2 else take_columns(tensor, cut.columns)
        except UnsupportedError as error:
            raise UnsupportedError(f"tensor_parallel: {name}: {error}") from error

    def release(self) -> None:
        """As the source does."""
        self._source.release()


def weight_bytes(graph: Graph, source: WeightSource) -> int:
    """Bytes of all weights of a graph as a source holds them."""
    return sum(bytes_by_weight(graph, source).values())


def bytes_by_weight(graph: Graph, source: WeightSource) -> dict[str, int]:
    """The same of each weight; 0 of one that no checkpoint has."""
    return {
        name: 0 if weight.value is not None else _nbytes(source.info(name).type)
        for name, weight in graph.weights.items()
    }


def _nbytes(kind: ArrayType | QuantType) -> int:
    count = prod(int(size) for size in kind.shape)
    if isinstance(kind, QuantType):
        return int(count * kind.scheme.bits_per_weight) // 8
    return count * numpy_dtype(kind.dtype).itemsize
