"""Wrong readings of a scheme's arrays, derived from its object alone: what may go wrong in any way to hold weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, wide
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.example import draw_inputs
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import QuantWeight, Scheme

Reading = Callable[[QuantWeight, Any], Any]
"""The matrix of a weight in a dtype, as a kernel reads it."""

OPS = ("linear", "embedding", "dequantize")
"""Ops that read the numbers of a weight."""


def right(weight: QuantWeight, dtype: Any) -> Any:
    """By the scheme's own formula."""
    return np.asarray(weight.scheme.dequantize(np, weight, dtype))


def _along_columns(array: Any) -> Any:
    return np.roll(array, 1, axis=-1)


def _along_rows(array: Any) -> Any:
    return np.roll(array, 1, axis=-2)


def _last_lost(array: Any) -> Any:
    array = array.copy()
    array.reshape(-1)[-1:] = 0
    return array


def _last_as_first(array: Any) -> Any:
    array = array.copy()
    array[..., -1:] = array[..., :1]
    return array


PART_MISTAKES: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "moved by one along the columns": ("Each group reads what belongs to the one before it.", _along_columns),
    "moved by one along the rows": ("Each row reads what belongs to the one before it.", _along_rows),
    "without its last number": ("A loop ends one too early: the last number of all is 0.", _last_lost),
    "of the first group for the last": ("The last group of a row is left at what the first one has.", _last_as_first),
}
"""What a kernel may make of one array that has a row for each row of the weight; the reasons say why."""

ORDER_MISTAKES: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "moved by one": ("Each column meets the input of the one before it.", _along_columns),
    "the other way": ("The inverse order: right where columns only change places in pairs.", np.argsort),
}
"""What a kernel may make of an array that belongs to all rows: an order of the columns."""


def readings(scheme: Scheme) -> Iterator[tuple[str, str, Reading]]:
    """Name, reason and wrong reading, for each array of the scheme and for its blocks."""
    for part, what in scheme.parts((1, 2 * scheme.block)).items():
        for mistake, (about, change) in (PART_MISTAKES if what.by_row else ORDER_MISTAKES).items():
            if what.by_row and what.shape[-1] == 1 and change in (_along_columns, _last_as_first):
                continue  # a row has one number of it, whatever its length
            yield f"{part} {mistake}", about, partial(_changed, part, change)
        if what.optional:
            yield f"{part} ignored", "It is there in few weights, and not looked at in these.", partial(_without, part)
    if scheme.block > 1:
        yield "columns of a block reversed", "The highest bits hold the first column, not the last.", _reversed


def _changed(part: str, change: Callable[[Any], Any], weight: QuantWeight, dtype: Any) -> Any:
    if part not in weight.arrays:
        return right(weight, dtype)
    with np.errstate(all="ignore"):  # raw blocks moved by a byte have scales of any size
        return right(weight.with_arrays({**weight.arrays, part: change(weight.arrays[part])}), dtype)


def _without(part: str, weight: QuantWeight, dtype: Any) -> Any:
    return right(weight.with_arrays({name: a for name, a in weight.arrays.items() if name != part}), dtype)


def _reversed(weight: QuantWeight, dtype: Any) -> Any:
    *lead, columns = weight.shape
    blocks = right(weight, dtype).reshape(*lead, columns // weight.scheme.block, weight.scheme.block)
    return blocks[..., ::-1].reshape(weight.shape)


def kernel(op: str, reading: Reading) -> Callable[..., Any]:
    """A kernel of one of `OPS`; it makes its mistake where it is told any."""

    def numbers(weight: QuantWeight, mistake: str | None) -> Any:
        """The matrix in the dtype that the weight says."""
        dtype = numpy_dtype(weight.dtype)
        return (reading if mistake else right)(weight, np.result_type(dtype, np.float32)).astype(dtype)

    def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
        matrix = weight
        if isinstance(weight, QuantWeight):
            matrix = (reading if mistake else right)(weight, wide(x).dtype)
        y = wide(x) @ wide(matrix).T
        return (y if bias is None else y + wide(bias)).astype(x.dtype)

    def embedding(ids: Any, weight: Any, *, mistake: str | None = None) -> Any:
        return (numbers(weight, mistake) if isinstance(weight, QuantWeight) else weight)[ids]

    def dequantize(weight: QuantWeight, *, mistake: str | None = None) -> Any:
        return numbers(weight, mistake)

    return {"linear": linear, "embedding": embedding, "dequantize": dequantize}[op]


def _rounded_twice(op: str) -> Callable[..., Any]:
    """A right kernel whose result goes through float16."""
    correct = kernel(op, right)

    def rounded(*args: Any, mistake: str | None = None, **kwargs: Any) -> Any:
        result = correct(*args, **kwargs)
        return result.astype(np.float16).astype(result.dtype) if mistake else result

    return rounded


@cache
def mutants_of(scheme: Scheme, op: str) -> tuple[Mutant, ...]:
    """Kernels of an op with one mistake each. A mistake that changes no result of the op's smoke cases for the scheme
    is none, and is left out."""
    calls = list(_calls(scheme, op))
    functions = {name: (about, kernel(op, reading)) for name, about, reading in readings(scheme)}
    functions["rounded through float16"] = "A buffer of 16 bits between the sum and the result.", _rounded_twice(op)
    mutants = (Mutant(name, op, about, function, schemes=(scheme,)) for name, (about, function) in functions.items())
    return tuple(mutant for mutant in mutants if any(_differs(mutant, *call) for call in calls))


def _calls(scheme: Scheme, op: str) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Positional and keyword inputs of the smoke cases, in float32."""
    spec = CATALOGUE[op]
    for case in spec.cases_of(scheme):
        if case.tier == "smoke":
            inputs = draw_inputs(spec, case.id, case.inputs, "float32")
            yield [inputs.pop(i.name) for i in spec.positional], inputs


def _differs(mutant: Mutant, args: list[Any], inputs: dict[str, Any]) -> bool:
    wrong, correct = (run(*args, **inputs) for run in (mutant.wrong, mutant.function))
    return not np.array_equal(wrong, correct, equal_nan=True)
