"""gated_delta: the gated delta rule, a matrix for each head that forgets, and learns what it got wrong."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.recurrent.states import (
    HOST,
    NOTES,
    SEQUENCES,
    batch,
    bench_prefix,
    check_sequences,
    check_values,
    state_bytes,
    unread_rows,
    with_rows,
)
from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import boolean
from tinyllm.spec.cases import BadInput, Case, Draw, constant, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.sequences import sequences
from tinyllm.spec.types import Call

EPS = 1e-6
"""Added to the square sums that queries and keys are divided by the roots of."""


def _reference(
    xp: Any,
    q: Any,
    k: Any,
    v: Any,
    a: Any,
    b: Any,
    state: Any,
    a_log: Any,
    dt_bias: Any,
    q_start: Any,
    kv_len: Any,
    state_rows: Any,
    *,
    tiled: bool = False,
) -> Any:
    groups = v.shape[1] // q.shape[1]
    q, k = (_by_value_head(xp, _unit(xp, each), groups, tiled) for each in (q * 1.0, k * 1.0))
    q = q * q.shape[-1] ** -0.5
    keep = xp.exp(-xp.exp(a_log) * _softplus(xp, a + dt_bias))
    learn = 1 / (1 + xp.exp(-b))
    parts, rows, states = [xp.zeros((0, *v.shape[1:]), dtype=v.dtype)], [], []
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        s = xp.zeros(tuple(state.shape[1:]), dtype=v.dtype) if begins else xp.astype(state[row, ...], v.dtype)
        outputs = []
        for t in range(first, last):
            s = s * keep[t, :][:, None, None]
            key = k[t, ...][:, :, None]
            wrong = (v[t, ...] - xp.sum(s * key, axis=1)) * learn[t, :][:, None]
            s = s + key * wrong[:, None, :]
            outputs.append(xp.sum(s * q[t, ...][:, :, None], axis=1))
        parts.append(xp.stack(outputs, axis=0))
        rows.append(row)
        states.append(s)
    return xp.concat(parts, axis=0), with_rows(xp, state, rows, states)


def _unit(xp: Any, x: Any) -> Any:
    return x / xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True) + EPS)


def _by_value_head(xp: Any, x: Any, groups: int, tiled: bool) -> Any:
    """Each head of `[T, H, D]` so many times in turn, or tiled: all of them in turn, so many times."""
    tokens, heads, dim = x.shape
    folded = (tokens, groups, heads, dim) if tiled else (tokens, heads, groups, dim)
    several = xp.broadcast_to(xp.expand_dims(x, axis=1 if tiled else 2), folded)
    return xp.reshape(several, (tokens, heads * groups, dim))


def _softplus(xp: Any, x: Any) -> Any:
    """`log(1 + exp(x))` without overflow."""
    return xp.maximum(x, xp.zeros((), dtype=x.dtype)) + xp.log(1 + xp.exp(-xp.abs(x)))


def _check(call: Call) -> None:
    check_sequences(call)
    heads, value_heads = call.shape("q")[1], call.shape("v")[1]
    if isinstance(heads, int) and isinstance(value_heads, int) and (not heads or value_heads % heads):
        raise invalid("gated_delta", "v", f"a multiple of the {heads} heads of q", value_heads)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """What rounding errors grow to. A step takes a column s of the state to `keep (I - learn k k^T) s + learn v k`. As
    k has length 1, that makes no error larger, and adds one of an ulp of the terms that it sums.
    """
    numbers = {n: np.nan_to_num(a) if a is not None and a.dtype.kind == "f" else a for n, a in inputs.items()}
    groups = numbers["v"].shape[1] // numbers["q"].shape[1]
    k, q = (_by_value_head(np, _unit(np, numbers[name]), groups, attributes["tiled"]) for name in ("k", "q"))
    forgets = np.exp(numbers["a_log"]) * _softplus(np, numbers["a"] + numbers["dt_bias"])
    learn = 1 / (1 + np.exp(-numbers["b"]))
    of_y, of_state = np.zeros(outputs[0].shape), np.abs(np.nan_to_num(outputs[1]))
    for first, last, row, begins in sequences(*(numbers[name] for name in HOST)):
        s = numbers["state"][row] * (0 if begins else 1)
        errors = np.sqrt((s * s).sum(1))
        for t in range(first, last):
            keep = np.exp(-forgets[t])[:, None]
            s = s * keep[:, :, None]
            size = np.sqrt((s * s).sum(1))
            known = np.abs(k[t])[:, :, None] * np.abs(s)
            learnt = learn[t][:, None] * (np.abs(numbers["v"][t]) + known.sum(1))
            errors = keep * errors + size * (2 + forgets[t])[:, None] + 3 * learnt
            wrong = (numbers["v"][t] - (k[t][:, :, None] * s).sum(1)) * learn[t][:, None]
            s = s + k[t][:, :, None] * wrong[:, None, :]
            of_y[t] = q.shape[-1] ** -0.5 * (errors + (np.abs(q[t])[:, :, None] * np.abs(s)).sum(1))
        of_state[row] = np.maximum(np.abs(s), errors[:, None, :])
    return of_y, of_state


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    length = (inputs["q"].shape[-1] + 1) ** 0.5
    return length * scale[0], length * scale[1]


def _case(
    lengths: list[tuple[int, int]],
    rows: list[int],
    heads: tuple[int, int] = (2, 4),
    dims: tuple[int, int] = (4, 3),
    tier: str = "smoke",
    tiled: bool = False,
) -> Case:
    tokens, (h, hv), (dk, dv) = sum(new for new, _ in lengths), heads, dims
    inputs: dict[str, Draw] = {
        "q": normal(tokens, h, dk),
        "k": normal(tokens, h, dk),
        "v": normal(tokens, hv, dv),
        "a": normal(tokens, hv),
        "b": normal(tokens, hv),
        "a_log": normal(hv, scale=0.5),
        "dt_bias": normal(hv),
        **batch(lengths, rows, max(rows, default=0) + 2, hv, dk, dv),
    }
    told = "+".join(f"{new}of{of}" for new, of in lengths) or "nobody"
    name = bench_prefix(lengths, tier) + f"{told},H{h},Hv{hv},D{dk},Dv{dv}" + ",tiled" * tiled
    return Case(name, inputs, {"tiled": True} if tiled else {}, tier=tier)


_TWO = _case([(2, 2), (1, 3)], [1, 0]).inputs


def _bad(name: str, match: str, **inputs: Draw) -> BadInput:
    """A call that is right but for the inputs given."""
    return BadInput(name, {**_TWO, **inputs}, {}, InvalidInputError, f"gated_delta: {match}")


gated_delta = OpSpec(
    name="gated_delta",
    summary="Linear attention with a matrix for each head, that forgets by a gate and is corrected towards the value "
    "of each key.",
    formula="S = keep_t S; S = S + k_t (learn_t (v_t - S^T k_t))^T; y_t = S^T q_t / sqrt(Dk); q and k divided by "
    "their lengths, keep = exp(-exp(a_log) softplus(a + dt_bias)), learn = sigmoid(b)",
    source="Yang et al. 2024, arXiv:2412.06464",
    inputs=(
        Input("q", "T H Dk", about="new tokens of all sequences, one after the other"),
        Input("k", "T H Dk"),
        Input("v", "T Hv Dv", about="each head of q and k serves Hv / H of v's"),
        Input("a", "T Hv", about="how much a token lets a head forget"),
        Input("b", "T Hv", about="how much a head learns of a token"),
        Input("state", "P Hv Dk Dv", "S", about="consumed"),
        Input("a_log", "Hv", "float"),
        Input("dt_bias", "Hv", "float"),
        *SEQUENCES,
    ),
    attributes=(
        Attribute(
            "tiled", False, boolean, "head i of q and k serves v's heads i, i + H, i + 2H...; else neighbouring ones"
        ),
    ),
    outputs=(Output("y", "T Hv Dv"), Output("state", "P Hv Dk Dv", "S")),
    reference=_reference,
    check=_check,
    check_values=lambda call, values: check_values(call, values, call.shape("q")[0], call.shape("state")[0]),
    flops=lambda call: 7 * call.shape("v")[0] * prod(call.shape("state")[1:]),
    bytes=lambda call: state_bytes(call, ("q", "k", "v", "v", "a", "b", "a_log", "dt_bias")),  # y is as large as v
    scale=_scale,
    sums=_sums,
    unread=lambda inputs, attributes: {
        "state": np.broadcast_to(unread_rows(inputs)[:, None, None, None], inputs["state"].shape)
    },
    consumes=("state",),
    host=HOST,
    notes=(f"{EPS:g} is added to the square sums that q and k are divided by the roots of.", *NOTES),
    cases=(
        _case([(3, 3), (1, 4), (2, 6), (1, 1), (0, 2)], [3, 0, 4, 1, 2]),
        _case([(2, 2), (1, 3)], [1, 0], (1, 1), (5, 2)),
        _case([(4, 9)], [0], (3, 3), (2, 2)),
        _case([(3, 3), (1, 4)], [1, 0], (2, 6), tiled=True),
        _case([], []),
        _case([(40, 40), (5, 70)], [0, 2], (2, 4), (16, 8), "full"),
        _case([(1, 500)], [0], (16, 32), (128, 128), "bench"),
        _case([(256, 256)], [0], (16, 32), (128, 128), "bench"),
    ),
    bad_inputs=(
        _bad("heads do not divide", "v: expected a multiple", **_case([(2, 2), (1, 3)], [1, 0], (3, 4)).inputs),
        _bad("row twice", "state_rows: expected no row twice", state_rows=constant([1, 1])),
        _bad("row past the state", "state_rows: expected rows 0 to 2", state_rows=constant([1, 3])),
        _bad("too few tokens", "kv_len: expected at least", kv_len=constant([1, 3])),
        _bad("sizes differ", "k: expected shape", k=normal(3, 2, 5)),
        BadInput("tiles", _TWO, {"tiled": 2}, InvalidInputError, "gated_delta: tiled: expected True or False"),
    ),
)
