"""Random arrays, quantized weights and attributes, as the patterns and checks of a spec have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd
from typing import Any

import numpy as np

from tinyllm.conformance.properties.search import Draws
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.quantized import WORD, QuantWeight

VALUES = (True, False, 1, 2, 3, 0, -1, 0.5, 2.0, 30.0, 1e-3, -0.7)
"""Attributes are tried with those of them that their check takes, and with the values that the spec's cases have."""

Call = tuple[dict[str, Any], dict[str, Any]]
"""Inputs and attributes."""

Recipe = Callable[[Draws, OpSpec, tuple[int, ...]], Call]
"""Makes a call of an op, given its leading axes where it has some."""


def generic(
    draws: Draws,
    spec: OpSpec,
    lead: tuple[int, ...],
    sizes: Mapping[str, int] | None = None,
    leave: tuple[str, ...] = (),
) -> Call:
    """By the patterns alone. sizes: of axes that are known; leave: optional inputs that somebody else makes."""
    dims = dict(sizes or {})
    inputs: dict[str, Any] = {}
    for given in sorted(spec.inputs, key=lambda i: i.kind != "quant"):  # whose rows have to fill whole groups and words
        if given.name in leave or (given.optional and not draws.flag()):
            continue
        whole = draws.pick(True, True, True, False) or sum(_group(i) == _group(given) for i in spec.inputs) == 1
        inputs[given.name] = _array(draws, given, dims, lead if whole or not lead else _broadcast(draws, lead))
    chosen = {a.name: value for a in spec.attributes if (value := _attribute(draws, spec, a)) is not REQUIRED}
    return inputs, chosen


def _attribute(draws: Draws, spec: OpSpec, attribute: Attribute) -> Any:
    """Its default (as if not given), or another value that its check takes."""
    if attribute.default is not REQUIRED and not draws.pick(False, False, True):
        return REQUIRED
    known: list[Any] = [c.attributes[attribute.name] for c in spec.cases if attribute.name in c.attributes]
    fitting = [v for v in (*known, *VALUES) if attribute.check(v) is None and (known or attribute.default is not None)]
    distinct = list({repr(v): v for v in fitting}.values())
    return draws.pick(*distinct) if distinct else REQUIRED


def _array(draws: Draws, given: Input, dims: dict[str, int], lead: tuple[int, ...]) -> Any:
    group, pattern = _group(given), [name for name in given.shape.split() if not name.startswith("*")]
    if given.kind == "quant" or (given.kind == "weight" and draws.pick(False, False, True)):
        stack = lead if group else ()
        rows, columns = (dims.get(name) for name in pattern)
        weight = quant_weight(draws, rows if rows is not None else draws.pick(*draws.sizes), stack, columns)
        dims.update(zip(pattern, weight.shape[-2:], strict=True))
        return weight
    for name in pattern:
        if name not in dims:
            dims[name] = int(name) if name.isdigit() else draws.pick(*draws.sizes)
    shape = (*(lead if group else ()), *(dims[name] for name in pattern))
    return values(draws, given.kind, shape)


def _group(given: Input) -> str:
    """The name of its leading axes, if it may have some."""
    first = given.shape.partition(" ")[0]
    return first if first.startswith("*") else ""


def _broadcast(draws: Draws, lead: tuple[int, ...]) -> tuple[int, ...]:
    """The leading axes, of which some are left out or 1."""
    return draws.pick(lead[1:], (1, *lead[1:]), (*lead[:-1], 1))  # type: ignore[no-any-return]


def values(draws: Draws, kind: str, shape: tuple[int, ...]) -> Any:
    """Numbers of a kind of input."""
    if kind == "int":
        return np.asarray(draws.rng.integers(0, draws.pick(3, 1, 100), shape), draws.pick("int32", "int64", "uint8"))
    if kind == "bool" or (kind == "mask" and draws.flag()):
        return np.asarray(draws.rng.random(shape) < draws.pick(0.7, 0.2, 1.0))
    if kind == "mask":
        return draws.cast(np.where(draws.rng.random(shape) < 0.2, -np.inf, draws.rng.standard_normal(shape)))
    array = draws.normal(*shape, scale=draws.pick(1.0, 4.0, 0.01))
    if draws.pick(False, False, False, True):
        array = np.where(draws.rng.random(shape) < 0.5, array, array.dtype.type(0))
    return array if kind != "float" or draws.dtype == "float64" else np.asarray(array, np.float32)


def quant_weight(
    draws: Draws, rows: int, lead: tuple[int, ...] = (), columns: int | None = None, plain: bool = False
) -> QuantWeight:
    """A random quantized matrix, or a stack of them. plain: its columns are in order."""
    scheme, bits = draws.pick(("affine", 4), ("int8", 8), *(("affine", b) for b in (2, 3, 5, 6, 8)))
    group = draws.pick(32, 16, 64, 8, 7)
    if columns is None:
        columns = group * draws.pick(*((1, 2, 3, 0) if 0 in draws.sizes else (1, 2, 3)))
        columns *= WORD // gcd(columns * bits, WORD) if scheme == "affine" else 1
    elif columns % group:
        group = next((g for g in (64, 32, 16, 8, 7, 5, 3, 2) if columns % g == 0), 1)
    if columns * bits % WORD:  # words are not whole
        scheme, bits = "int8", 8
    rng, shape = draws.rng, (*lead, rows, columns)
    groups = (*lead, rows, columns // group)
    kind = draws.pick("float16", "float32")
    scales = (rng.random(groups) * 0.02 + 0.01) * (1 if scheme == "affine" else 1 / 16)
    arrays: dict[str, Any] = {"scales": scales.astype(kind)}
    if scheme == "int8":
        arrays["q"] = rng.integers(-127, 128, shape, dtype=np.int8)
    else:
        arrays["q"] = rng.integers(0, 2**32, (*lead, rows, columns * bits // WORD), dtype=np.uint32)
        arrays["biases"] = (-scales * (2 ** (bits - 1) + rng.standard_normal(groups))).astype(kind)
    if not plain and draws.pick(False, False, True):
        arrays["permutation"] = rng.permutation(columns).astype(np.int32)
    return QuantWeight(scheme, arrays, bits, group, shape)
