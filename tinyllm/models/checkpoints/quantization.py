"""What the quantized layers of a folder are made of, whatever tool wrote them: several tensors of a file that stand for
one weight."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, ClassVar, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.bits import pack, unpack
from tinyllm.catalogue.schemes.zero_point import ZeroPoint
from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.checkpoint import checked_weight
from tinyllm.spec.scheme import QuantType, QuantWeight

Arrays = Mapping[str, NDArray[Any]]


class Stored(Protocol):
    """A tensor of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's or `ml_dtypes`'."""

    def read(self) -> NDArray[Any]:
        """The tensor."""


Tensors = Mapping[str, Stored]


@dataclass(frozen=True)
class Layer:
    """A quantized weight in a file.

    parts: the names of its tensors, by what they are. make: the weight from their arrays. order: what tells the order
    of its columns, where they lie in one of their own.
    """

    type: QuantType
    parts: Mapping[str, str]
    make: Callable[[Arrays], QuantWeight]
    order: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Quantization(ABC):
    """The settings that a config has for its quantized layers. where: the file and key that say so.

    unused: endings of tensors that are not read. They say how activations were quantized in training or calibration;
    here activations stay as they are, so that a layer is that of the dequantized weight.
    """

    where: str
    unused: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def layers(self, stored: Tensors) -> dict[str, Layer]:
        """The layers among a file's tensors, by the name of the weight. Raises `CheckpointError` for parts that are
        missing or do not fit."""

    def fail(self, name: str, expected: str, got: object) -> CheckpointError:
        """The error for a tensor or a setting that is not what it should be."""
        return CheckpointError(f"{self.where}: {shortened(name)}: expected {expected}, got {quoted(got)}")

    def parts_of(
        self, stored: Tensors, stem: str, needed: Iterable[str], optional: Iterable[str] = ()
    ) -> dict[str, str]:
        """Names of the tensors of a module by their last part. Raises `CheckpointError` for one that is missing or
        empty."""
        for part in needed:
            if f"{stem}.{part}" not in stored:
                raise self.fail(stem, f"the tensors {', '.join(needed)}", f"none called {part}")
        found = {part: f"{stem}.{part}" for part in (*needed, *optional) if f"{stem}.{part}" in stored}
        for name in found.values():
            if 0 in stored[name].shape:
                raise self.fail(name, "numbers", list(stored[name].shape))
        return found

    def need_shape(self, stored: Tensors, name: str, shape: tuple[int, ...]) -> None:
        """Raises `CheckpointError` for a tensor of another shape."""
        if stored[name].shape != shape:
            raise self.fail(name, f"shape {list(shape)}", list(stored[name].shape))

    def need_dtype(self, stored: Tensors, name: str, *dtypes: str) -> None:
        """Raises `CheckpointError` for a tensor of another dtype."""
        if stored[name].dtype.name not in dtypes:
            raise self.fail(name, " or ".join(dtypes), stored[name].dtype.name)


def stems(stored: Tensors, ending: str) -> list[str]:
    """Modules that have a tensor of a name."""
    return [name.removesuffix(ending) for name in stored if name.endswith(ending)]


def matches(pattern: str, module: str) -> bool:
    """Whether an entry of a list of modules names one: itself, what it is in, or `re:` and a regular expression."""
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), module) is not None
    return module == pattern or module.startswith(f"{pattern}.")


def module_list(where: str, key: str, value: Any) -> tuple[str, ...]:
    """A list of modules from a config; none where it is null. Raises `CheckpointError` for anything else."""
    entries = [] if value is None else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise CheckpointError(f"{where}.{key}: expected a list of modules, got {quoted(value)}")
    for entry in entries:
        try:
            re.compile(entry.removeprefix("re:") if entry.startswith("re:") else "")
        except re.error as error:
            raise CheckpointError(f"{where}.{key}: expected regular expressions, got {quoted(entry)}") from error
    return tuple(entries)


def check_left_out(where: str, key: str, entries: Iterable[str], modules: Iterable[str]) -> None:
    """Raises `CheckpointError` where a module is quantized that a list leaves out."""
    listed = list(entries)
    for module in modules:
        for entry in listed:
            if matches(entry, module):
                raise CheckpointError(
                    f"{where}.{key}: expected the weight of {shortened(module)} as it is, got a quantized one"
                )


def check_settings(where: str, settings: Mapping[str, Any], understood: Mapping[str, tuple[Any, ...] | None]) -> None:
    """Raises `CheckpointError` for a setting that is not understood, or has a value that is not.

    understood: by name the values that are; None: any, as the reader looks at it or it changes nothing.
    """
    for key, value in settings.items():
        if key not in understood:
            raise CheckpointError(f"{where}.{shortened(key)}: expected no such setting, got {quoted(value)}")
        values = understood[key]
        if values is not None and not any(value == each and type(value) is type(each) for each in values):
            expected = " or ".join(map(quoted, values))
            raise CheckpointError(f"{where}.{key}: expected {expected}, got {quoted(value)}")


def order_of(array: NDArray[Any]) -> str:
    """What tells one order of columns from another."""
    return array.tobytes().hex()


def by_group(where: str, groups: NDArray[Any], count: int, group_size: int) -> NDArray[np.int32] | None:
    """The order in which columns stand group by group, None where they do already.

    groups: the group of each column. Raises `CheckpointError` unless each has `group_size` columns.
    """
    expected = np.arange(len(groups)) // group_size
    if np.array_equal(groups, expected):
        return None
    if not np.array_equal(np.sort(groups), expected):
        raise CheckpointError(f"{where}: expected {group_size} columns in each of {count} groups, got other numbers")
    return np.argsort(groups, kind="stable").astype(np.int32)


def permuted(arrays: dict[str, NDArray[Any]], permutation: NDArray[np.int32], bits: int) -> dict[str, NDArray[Any]]:
    """The arrays of a `ZeroPoint` weight with its columns in the order of their groups."""
    codes = unpack(np, arrays["q"], bits, len(permutation)).astype(np.uint8)
    return arrays | {"q": pack(np, codes[:, permutation], bits), "permutation": permutation}


def grouped_layer(
    where: str,
    name: str,
    scheme: ZeroPoint,
    shape: tuple[int, ...],
    parts: Mapping[str, str],
    make: Callable[[Arrays], dict[str, NDArray[Any]]],
    order: Callable[[], NDArray[np.int32] | None],
) -> Layer:
    """The weight of a `ZeroPoint` scheme whose columns may stand in another order than group by group.

    make: the weight's arrays, with the columns as they stand. order: as `by_group` gives it, read when it is needed.
    """

    def made(arrays: Arrays) -> QuantWeight:
        of_weight, permutation = make(arrays), order()
        if permutation is not None:
            of_weight = permuted(of_weight, permutation, scheme.bits)
        return checked_weight(where, name, QuantWeight(scheme, of_weight, shape))

    def told() -> str:
        permutation = order()
        return "" if permutation is None else order_of(permutation)

    return Layer(QuantType(shape, scheme), parts, made, told)


def powers_of_two(where: str, exponents: NDArray[Any]) -> NDArray[Any]:
    """E8M0 scales as bfloat16, which holds them all. Raises `CheckpointError` for the NaN among them."""
    octets = exponents.view(np.uint8)
    if (octets == 255).any():
        raise CheckpointError(f"{where}: expected numbers, got NaN")
    bits = np.where(octets == 0, 0x40, octets.astype(np.uint16) << 7).astype(np.uint16)
    return bits.view(ml_dtypes.bfloat16)


def by_row(scales: NDArray[Any], shape: tuple[int, int], block: tuple[int, int]) -> NDArray[Any]:
    """Scales of blocks of rows and columns, `[ceil(N / rows), ceil(K / columns)]`, for groups of `group_within(...)`
    columns of each row. Blocks may be cut at the edges."""
    group = group_within(shape[1], block[1])
    rows, columns = np.arange(shape[0]) // block[0], np.arange(shape[1] // group) * group // block[1]
    return np.ascontiguousarray(scales[rows][:, columns])


def group_within(columns: int, block: int) -> int:
    """The longest groups that a row has only whole ones of, each within a block."""
    return columns if columns <= block else gcd(columns, block)
