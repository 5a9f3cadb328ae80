"""Recurrent ops against what transformers computes in place of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tinyllm import ops
from tinyllm.conformance.example import make_example

torch = pytest.importorskip("torch")
judge = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")

STARTS, LENGTHS, ROWS = [0, 70, 71, 74], [70, 9, 7], [2, 0, 3]
"""A prompt, a token and a chunk of sequences, the first of which begins."""
INDICES = [np.array(each, np.int32) for each in (STARTS, LENGTHS, ROWS)]


def _numbers(seed: int, *shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def _sequences() -> list[tuple[slice, int, bool]]:
    """Tokens and row of each, and whether it begins."""
    each = zip(pairwise(STARTS), LENGTHS, ROWS, strict=True)
    return [(slice(first, last), row, length == last - first) for (first, last), length, row in each]


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_a_convolution_is_transformers(activation: str, backend: str) -> None:
    x, weight, bias, state = _numbers(0, 74, 20), _numbers(1, 20, 4), _numbers(2, 20), _numbers(3, 5, 20, 3)
    wanted, after, chosen = torch.zeros_like(x), state.clone(), None if activation == "none" else activation
    for tokens, row, begins in _sequences():
        own = (state[row] * (not begins))[None]
        y = judge.causal_conv1d_update(x[tokens].T[None], own, weight, bias, chosen)
        wanted[tokens], after[row] = y[0].T, own[0]
    arrays = [each.numpy().copy() for each in (x, state, weight)]
    given = ops.short_conv(*arrays, *INDICES, bias=bias.numpy(), activation=activation, backend=backend)
    for got, right in zip(given, (wanted, after), strict=True):
        np.testing.assert_allclose(got, right.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("tiled", [False, True])
def test_the_delta_rule_is_transformers(tiled: bool, backend: str) -> None:
    q, k, v = _numbers(0, 74, 2, 16), _numbers(1, 74, 2, 16), _numbers(2, 74, 6, 24)
    a, b, state = _numbers(3, 74, 6), _numbers(4, 74, 6), _numbers(5, 5, 6, 16, 24)
    a_log, dt_bias = _numbers(6, 6), _numbers(7, 6)
    forgets = -a_log.exp() * torch.nn.functional.softplus(a + dt_bias)
    wanted, after = torch.zeros_like(v), state.clone()
    for tokens, row, begins in _sequences():
        keys = ((each.repeat(1, 3, 1) if tiled else each.repeat_interleave(3, 1)) for each in (q, k))
        five = (each[None, tokens] for each in (*keys, v, forgets, b.sigmoid()))
        own = None if begins else state[row][None]
        y, s = judge.torch_recurrent_gated_delta_rule(*five, own, True, use_qk_l2norm_in_kernel=True)
        wanted[tokens], after[row] = y[0], s[0]
    arrays = [each.numpy().copy() for each in (q, k, v, a, b, state, a_log, dt_bias)]
    given = ops.gated_delta(*arrays, *INDICES, tiled=tiled, backend=backend)
    for got, right in zip(given, (wanted, after), strict=True):
        np.testing.assert_allclose(got, right.numpy(), rtol=1e-4, atol=2e-5)


def test_cost_counts_the_rows_of_sequences_and_not_all_that_there_are():
    """Each is read and written; all else is read or written once."""
    floats = {"float32": 4, "float16": 2}
    for name, outputs in (("gated_delta", ("v",)), ("short_conv", ("x",))):
        spec = registry().spec(name)
        for dtype in floats:
            case = max(spec.cases, key=lambda case: len(case.inputs))
            example = make_example(spec, case, dtype)
            call, (rows, *of_a_row) = example.call, example.inputs["state"].shape
            sequences = len(example.inputs["kv_len"])
            assert rows > sequences
            once = [n for n, a in example.inputs.items() if a.dtype.kind == "f" and n != "state"]
            wanted = sum(example.inputs[n].nbytes for n in (*once, *outputs))
            row = int(np.prod(of_a_row)) * example.inputs["state"].itemsize
            assert spec.bytes(call) == wanted + 2 * sequences * row
