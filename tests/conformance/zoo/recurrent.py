"""States that go from token to token, and what goes wrong with them: rows, beginnings, gates."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, wide


def _before(state: Any, number: int, rows: Any, begins: bool, mistake: str | None) -> Any:
    """What a sequence goes on from."""
    if begins and mistake != "state not cleared":
        return np.zeros_like(state[0])
    return state[number if mistake == "state of another row" else rows[number]]


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _unit(x: Any) -> Any:
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def short_conv(
    x: Any,
    state: Any,
    weight: Any,
    q_start: Any,
    kv_len: Any,
    state_rows: Any,
    *,
    bias: Any = None,
    activation: str = "none",
    mistake: str | None = None,
) -> Any:
    y, after, width = np.empty_like(x), state.copy(), weight.shape[1]
    weight = wide(weight[:, ::-1] if mistake == "last weight first" else weight)
    bias = 0 if bias is None or mistake == "bias ignored" else wide(bias)
    for number, (first, last) in enumerate(pairwise(q_start.tolist())):
        if first == last:
            continue
        begins = kv_len[number] == last - first
        before = wide(_before(state, number, state_rows, begins, mistake)).T
        if mistake == "cleared for each prompt" and last - first > 1:
            before = np.zeros_like(before)
        seen = np.concatenate([before, wide(x[first:last])])
        sums = sum(seen[w : w + last - first] * weight[:, w] for w in range(width)) + bias
        y[first:last] = sums * _sigmoid(sums) if activation == "silu" else sums
        if mistake == "forgotten last inputs" and last - first < width - 1:
            seen[last - first : width - 1] = 0
        after[state_rows[number]] = seen[last - first :].T
    return y, after


def gated_delta(
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
    mistake: str | None = None,
) -> Any:
    heads, value_heads, dtype = q.shape[1], v.shape[1], v.dtype
    q, k, v, a, b = (wide(x) for x in (q, k, v, a, b))
    of_head = np.arange(value_heads) // (value_heads // heads)
    if mistake == "heads in turn" or (tiled and mistake != "tiles ignored"):
        of_head = np.arange(value_heads) % heads
    q = _unit(q)[:, of_head] * (1 if mistake == "queries not scaled" else q.shape[-1] ** -0.5)
    k = (k if mistake == "keys as long as they are" else _unit(k))[:, of_head]
    keep = np.exp(-np.exp(a_log) * np.log1p(np.exp(a + dt_bias)))[:, :, None, None]
    learn = (np.ones_like(b) if mistake == "everything learnt" else _sigmoid(b))[:, :, None]
    y, after = np.empty_like(v), state.copy()
    for number, (first, last) in enumerate(pairwise(q_start.tolist())):
        if first == last:
            continue
        begins = kv_len[number] == last - first
        s = wide(_before(state, number, state_rows, begins, mistake))
        for t in range(first, last):
            if mistake != "gate after the correction":
                s = s * keep[t]
            known = 0 if mistake == "values not corrected" else (s * k[t][:, :, None]).sum(1)
            s = s + k[t][:, :, None] * ((v[t] - known) * learn[t])[:, None, :]
            if mistake == "gate after the correction":
                s = s * keep[t]
            y[t] = (s * q[t][:, :, None]).sum(1)
        after[state_rows[number]] = s
    return y.astype(dtype), after


MUTANTS = (
    *(
        mutant
        for op, function in (("short_conv", short_conv), ("gated_delta", gated_delta))
        for mutant in (
            Mutant("state of another row", op, "Sequences have the rows in which they come.", function),
            Mutant("state not cleared", op, "A sequence that begins goes on from what its row held.", function),
        )
    ),
    Mutant("forgotten last inputs", "short_conv", "A step shorter than the width leaves itself alone.", short_conv),
    Mutant("cleared for each prompt", "short_conv", "A chunk of a prompt is taken for its beginning.", short_conv),
    Mutant("last weight first", "short_conv", "A convolution of the textbooks, which turns its weights.", short_conv),
    Mutant("bias ignored", "short_conv", "Most models have none.", short_conv),
    Mutant("gate after the correction", "gated_delta", "What is learnt is forgotten at once.", gated_delta),
    Mutant("values not corrected", "gated_delta", "Plain linear attention: a key is learnt on top.", gated_delta),
    Mutant("everything learnt", "gated_delta", "The second gate is ignored.", gated_delta),
    Mutant("keys as long as they are", "gated_delta", "Only queries are divided by their lengths.", gated_delta),
    Mutant("queries not scaled", "gated_delta", "1 / sqrt(Dk) is forgotten.", gated_delta),
    Mutant("heads in turn", "gated_delta", "Heads of keys are tiled, not repeated.", gated_delta),
    Mutant("tiles ignored", "gated_delta", "Heads of keys are repeated where they are to be tiled.", gated_delta),
)
