"""short_conv: a causal convolution of each channel with a few of its own numbers."""

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
from tinyllm.catalogue.rows.silu import silu_of
from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import choice
from tinyllm.spec.cases import BadInput, Case, Draw, constant, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.sequences import sequences
from tinyllm.spec.types import Call


def _reference(
    xp: Any,
    x: Any,
    state: Any,
    weight: Any,
    q_start: Any,
    kv_len: Any,
    state_rows: Any,
    *,
    bias: Any = None,
    activation: str = "none",
) -> Any:
    channels, width = weight.shape
    parts, rows, states = [xp.zeros((0, channels), dtype=x.dtype)], [], []
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        before = xp.zeros((width - 1, channels), dtype=x.dtype) if begins else _turned(xp, state[row, ...])
        seen = xp.concat([before, x[first:last, :]], axis=0)
        length = last - first
        y = sum(seen[w : w + length, :] * weight[:, w] for w in range(width))
        parts.append(y if bias is None else y + bias)
        rows.append(row)
        states.append(_turned(xp, seen[length:, :]))
    y = xp.concat(parts, axis=0)
    return silu_of(xp, y) if activation == "silu" else y, with_rows(xp, state, rows, states)


def _turned(xp: Any, matrix: Any) -> Any:
    return xp.permute_dims(matrix, (1, 0))


def _check(call: Call) -> None:
    check_sequences(call)
    width, kept = call.shape("weight")[1], call.shape("state")[2]
    if isinstance(width, int) and isinstance(kept, int) and kept != width - 1:
        raise invalid("short_conv", "state", f"{width - 1} numbers of each channel for a width of {width}", kept)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """The sum of |x||w| and the bias; of the state its own numbers, which are copied."""
    sizes = {n: np.abs(a) if a is not None and a.dtype.kind == "f" else a for n, a in inputs.items()}
    state = np.nan_to_num(sizes["state"])
    y, _ = _reference(np, **{n: a for n, a in sizes.items() if n != "state"}, state=state)
    return y, np.abs(outputs[1])


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    return (inputs["weight"].shape[1] + 1) ** 0.5 * scale[0], 0 * scale[1]


def _case(
    lengths: list[tuple[int, int]], rows: list[int], channels: int, width: int, *, tier: str = "smoke", **more: Any
) -> Case:
    bias = more.pop("bias", False)
    tokens = sum(new for new, _ in lengths)
    count = max(rows, default=0) + 2
    inputs: dict[str, Draw] = {"x": normal(tokens, channels), "weight": normal(channels, width)}
    inputs |= batch(lengths, rows, count, channels, width - 1) | ({"bias": normal(channels)} if bias else {})
    told = "+".join(f"{new}of{of}" for new, of in lengths) or "nobody"
    name = f"{told},C{channels},W{width}{',bias' if bias else ''}{''.join(f',{v}' for v in more.values())}"
    return Case(bench_prefix(lengths, tier) + name, inputs, more, tier=tier)


_MIXED = [(5, 5), (1, 7), (3, 9), (1, 1), (0, 4)]
_TWO = _case([(2, 2), (1, 3)], [1, 0], 4, 3).inputs


def _bad(name: str, match: str, **inputs: Draw) -> BadInput:
    """A call that is right but for the inputs given."""
    return BadInput(name, {**_TWO, **inputs}, {}, InvalidInputError, f"short_conv: {match}")


short_conv = OpSpec(
    name="short_conv",
    summary="Causal convolution along the tokens of each sequence, every channel by itself, whose last inputs are "
    "kept for the tokens to come.",
    formula="y[t, c] = activation(bias[c] + sum_w weight[c, w] x[t - W + 1 + w, c]), with what came before in state",
    source="Gu and Dao 2023, arXiv:2312.00752, section 3.4; LFM2: arXiv:2511.23404",
    inputs=(
        Input("x", "T C", about="new tokens of all sequences, one after the other"),
        Input("state", "P C S", "S", about="consumed; the last S = W - 1 inputs of each sequence"),
        Input("weight", "C W"),
        *SEQUENCES,
        Input("bias", "C", optional=True),
    ),
    attributes=(Attribute("activation", "none", choice("none", "silu"), "of the sums"),),
    outputs=(Output("y", "T C"), Output("state", "P C S", "S")),
    reference=_reference,
    check=_check,
    check_values=lambda call, values: check_values(call, values, call.shape("x")[0], call.shape("state")[0]),
    flops=lambda call: 2 * prod(call.shape("x")) * call.shape("weight")[1],
    bytes=lambda call: state_bytes(call, ("x", "x", "weight", "bias")),  # y is as large as x
    scale=_scale,
    sums=_sums,
    unread=lambda inputs, attributes: {
        "state": np.broadcast_to(unread_rows(inputs)[:, None, None], inputs["state"].shape)
    },
    consumes=("state",),
    host=HOST,
    notes=NOTES,
    cases=(
        _case(_MIXED, [3, 0, 4, 1, 2], 6, 4),
        _case(_MIXED, [3, 0, 4, 1, 2], 6, 4, bias=True, activation="silu"),
        _case([(2, 2), (1, 3)], [1, 0], 4, 3),
        _case([(3, 3)], [0], 5, 1),
        _case([], [], 3, 3),
        _case([(1, 9)], [0], 3, 2, bias=True),
        _case([(70, 70), (33, 100)], [0, 2], 65, 4, tier="full", activation="silu"),
        _case([(1, 500)], [0], 2048, 3, tier="bench"),
        _case([(256, 256)], [0], 2048, 3, tier="bench"),
    ),
    bad_inputs=(
        _bad("state too long", "state: expected 2 numbers of each channel", state=normal(3, 4, 3)),
        _bad("row twice", "state_rows: expected no row twice", state_rows=constant([1, 1])),
        _bad("row past the state", "state_rows: expected rows 0 to 2", state_rows=constant([1, 3])),
        _bad("starts do not rise", "q_start: expected numbers rising", q_start=constant([0, 4, 3])),
        _bad("too few tokens", "kv_len: expected at least", kv_len=constant([1, 3])),
        _bad("channels differ", "weight: expected shape", weight=normal(5, 3)),
    ),
)
