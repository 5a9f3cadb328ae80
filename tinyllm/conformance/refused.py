"""Which wrong outputs the cases of an op refuse: a table for whoever adds an op, or doubts the kit.

Wrong outputs are made of the reference's, without any kernel. A case counts where the wrong output has other bits than
the right one, and refuses it where the judge does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.docs import write
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.conformance.example import DTYPES, Example, dtypes_of, eps, make_example
from tinyllm.conformance.judge import flushed, judge
from tinyllm.spec.cases import Case
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.validation import output_types

Outputs = tuple[Any, ...]
NARROWER = {"float64": "float32", "float32": "float16"}
"""What is half as wide as a dtype; 16 bits stand for themselves."""
SOME = 0.01
"""A wrong output is off by more than this share of its largest number; one in half precision by less."""


class Stepwise(np.ndarray):
    """An array whose operations are each rounded to a narrower dtype."""

    narrow: Any

    def __array_finalize__(self, other: Any) -> None:
        self.narrow = getattr(other, "narrow", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **settings: Any) -> Any:
        settings.pop("out", None)  # a new array is rounded as well
        plain = [np.asarray(i) if isinstance(i, Stepwise) else i for i in inputs]
        narrow = next(i.narrow for i in inputs if isinstance(i, Stepwise))
        return stepwise(getattr(ufunc, method)(*plain, **settings), narrow)


def in_dtype(array: Any, dtype: Any) -> Any:
    """The array in a dtype: in bfloat16 by way of float32, as ml_dtypes goes before 0.7 and not from there on, so that
    the table is the same with all versions."""
    return array.astype(np.float32).astype(dtype) if dtype == numpy_dtype("bfloat16") else array.astype(dtype)


def stepwise(values: Any, narrow: Any) -> Any:
    """Numbers rounded to a dtype, with operations that round to it; anything but floats as it is."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):
        rounded = in_dtype(array, narrow).astype(array.dtype).view(Stepwise)
    rounded.narrow = narrow
    return rounded


def right(example: Example) -> Outputs:
    """What the reference gives, rounded to the dtype."""
    kinds = output_types(example.spec, example.call)
    with np.errstate(all="ignore"):
        return tuple(
            in_dtype(np.asarray(y), numpy_dtype(k.dtype)) for y, k in zip(example.expected, kinds, strict=True)
        )


def zeros(example: Example) -> Iterator[Outputs]:
    """Nothing is computed."""
    yield tuple(np.zeros_like(y) for y in right(example))


def copies(example: Example) -> Iterator[Outputs]:
    """Each input that could pass for the first output."""
    first, *others = right(example)
    for value in example.inputs.values():
        if isinstance(value, np.ndarray) and (value.shape, value.dtype) == (first.shape, first.dtype):
            yield (value, *others)


def half_precision(example: Example) -> Iterator[Outputs]:
    """The formula with each step in half the precision, in 16 bits in these."""
    narrow = numpy_dtype(NARROWER.get(example.dtype, example.dtype))
    floats = {n for n, v in example.inputs.items() if isinstance(v, np.ndarray) and str(v.dtype) in DTYPES}
    inputs = example.wide | {name: stepwise(example.wide[name], narrow) for name in floats}
    with np.errstate(all="ignore"):
        given = example.spec.reference(np, *example.positional(inputs), **example.keyword(inputs))
    outputs = given if isinstance(given, tuple) else (given,)
    yield tuple(in_dtype(np.asarray(y), r.dtype) for y, r in zip(outputs, right(example), strict=True))


def shifted(example: Example) -> Iterator[Outputs]:
    """Each number in its neighbour's place, along the last axis and along the first."""
    for axis in (-1, 0):
        yield tuple(np.roll(y, 1, axis) if y.ndim else y for y in right(example))


WRONG: Mapping[str, Callable[[Example], Iterator[Outputs]]] = {
    "zeros": zeros,
    "a copied input": copies,
    "half precision": half_precision,
    "off by one": shifted,
}
"""By the names that the table has."""


@dataclass
class Row:
    """An op in a dtype: per kind of wrong outputs how many its cases have, and the ids of cases that let one pass."""

    tried: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WRONG, 0))
    passed: dict[str, list[str]] = field(default_factory=lambda: {wrong: [] for wrong in WRONG})

    def __str__(self) -> str:
        refused = [(self.tried[wrong] - len(self.passed[wrong]), self.tried[wrong]) for wrong in WRONG]
        return " | ".join("" if not n else "100 %" if k == n else f"{k} of {n}" for k, n in refused)


def row(spec: OpSpec, cases: Iterable[Case], dtype: str) -> Row:
    """Tries the wrong outputs of cases. Those of ops that give quantized weights are left to the zoo."""
    found = Row()
    for case in cases:
        example = make_example(spec, case, dtype)
        if any(isinstance(y, QuantWeight) for y in example.expected):
            continue
        good = right(example)
        for wrong, outputs_of in WRONG.items():
            tried = [outputs for outputs in outputs_of(example) if differs(outputs, good, wrong)]
            found.tried[wrong] += len(tried)
            found.passed[wrong] += [case.id for outputs in tried if not judge(example, outputs).message]
    return found


def differs(outputs: Outputs, good: Outputs, wrong: str) -> bool:
    """Whether outputs are wrong indeed: in some number by more than is flushed, and by what rounding may not be."""
    for output, wanted in zip(outputs, good, strict=True):
        kind, output, wanted = str(wanted.dtype), output.astype(np.float64), wanted.astype(np.float64)
        if not np.array_equal(np.isfinite(output), np.isfinite(wanted)):
            return True
        with np.errstate(all="ignore"):
            error = np.nan_to_num(np.abs(output - wanted), nan=0)
        largest = np.max(np.abs(wanted), initial=0, where=np.isfinite(wanted))
        if numpy_dtype(kind).kind in "iu":
            if np.any(error):
                return True
            continue
        share = eps(NARROWER.get(kind, kind)) / 64 if wrong == "half precision" else SOME
        if np.any(error > np.maximum(share * largest, 4 * flushed(kind))):
            return True
    return False


def cases_of(spec: OpSpec) -> list[Case]:
    """The smoke and full cases, and those of one scheme."""
    cases = (*spec.all_cases, *spec.cases_of(Affine()))
    return [case for case in cases if case.tier in ("smoke", "full")]


def page() -> str:
    """docs/refused.md."""
    lines = [*HEAD.splitlines(), "", f"| op | dtype | {' | '.join(WRONG)} |", f"|---|---|{'---|' * len(WRONG)}"]
    passed = []
    for name, spec in CATALOGUE.items():
        for dtype in dtypes_of(spec):
            found = row(spec, cases_of(spec), dtype)
            if any(found.tried.values()):
                lines.append(f"| {name} | {dtype} | {found} |")
            passed += [f"- {name}, {dtype}, {w}: {', '.join(ids)}" for w, ids in found.passed.items() if ids]
    return "\n".join([*lines, "", "What passes:", "", *passed, ""])


HEAD = """# What the cases refuse

Made from the specs by `make docs`, without any kernel: outputs that are wrong in a way that kernels are, put before the
judge in every case of the tiers smoke and full. *Zeros*: nothing is computed. *A copied input*: one of the shape of the
output. *Half precision*: each step of the formula rounded to half the bits, in 16 bits to these. *Off by one*: each
number in its neighbour's place.

An output counts where it is wrong indeed: off by more than a hundredth of the largest number, in half precision by more
than a 64th of what that can tell apart, and by more than libraries flush to 0."""


if __name__ == "__main__":
    write(page())
