"""Random arrays, quantized weights and attributes, as the patterns and checks of a spec have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import gcd
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.bits import WORD
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.conformance.properties.search import Draws
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.scheme import QuantWeight, Scheme

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
    for given in sorted(
        spec.inputs, key=lambda i: i.kind not in ("quant", "weight")
    ):  # whose rows have to fill whole groups and words
        if given.name in leave or (given.optional and not draws.flag()):
            continue
        whole = draws.pick(True, True, True, False) or sum(_group(i) == _group(given) for i in spec.inputs) == 1
        inputs[given.name] = _array(draws, given, dims, lead if whole or not lead else _broadcast(draws, lead))
    inputs = {i.name: inputs[i.name] for i in spec.inputs if i.name in inputs}
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
    """A random matrix of a scheme of the core, or a stack of them. plain: its columns are in order."""
    group = draws.pick(32, 16, 64, 8, 7)
    if columns is None:
        columns = group * draws.pick(*((1, 2, 3, 0) if 0 in draws.sizes else (1, 2, 3))) * WORD // gcd(group, WORD)
    elif columns % group:
        group = next((g for g in (64, 32, 16, 8, 7, 5, 3, 2) if columns % g == 0), 1)
    whole: list[Scheme] = [Affine(bits, group) for bits in (4, 2, 3, 5, 6, 8)]
    fitting = [scheme for scheme in whole if scheme.check_parameters((rows, columns)) is None]
    scheme = draws.pick(*fitting[:1], Int8(group), *fitting[1:])
    forms = [form for form in scheme.forms() if form != "permuted" or not plain]
    weight: QuantWeight = scheme.forms()[draws.pick(*forms)](draws.rng, (*lead, rows, columns))
    return replace(weight, dtype=draws.dtype)
