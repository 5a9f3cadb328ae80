"""Weights that are finer than the rest of the model, and those that no checkpoint has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.graph.tiny import CONFIG, LAYER, Tensors
from tinyllm.errors import InvalidInputError
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import GraphBuilder
from tinyllm.models.decoder.config import GatedDeltaConfig, MoeConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.plugins import numpy_dtype
from tinyllm.registry.selection import parse_selection

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("backend", backends())
def test_a_weight_keeps_a_dtype_of_its_own(backend: str) -> None:
    """Two biases are one number in bfloat16, of which the first expert would be chosen."""
    g = GraphBuilder(registry().specs, "bfloat16")
    logits = g.input("logits", ("T", 3), "bfloat16")
    chosen, _ = g.moe_router(logits, bias=g.weight("bias", (3,), "float32"), top_k=1, score="sigmoid")
    tensors = Tensors({})
    tensors.arrays["bias"] = np.array([1.0, 1.001, 0.5], np.float32)
    program = bind(g.build(chosen), registry(), parse_selection(backend, "test"), tensors)
    (experts,), _ = program({"logits": np.zeros((2, 3), numpy_dtype("bfloat16"))}, {})
    np.testing.assert_array_equal(experts, [[1], [1]])


def test_one_weight_has_one_dtype() -> None:
    g = GraphBuilder(registry().specs, "bfloat16")
    g.weight("a", (3,))
    assert g.weight("a", (3,), "bfloat16").type == g.weight("a", (3,)).type
    with pytest.raises(InvalidInputError, match=r"weight a: declared as bfloat16\[3\] and as float32\[3\]"):
        g.weight("a", (3,), "float32")


def test_what_families_keep_in_float32() -> None:
    """Corrections of routers, and how fast the gated delta rule forgets, however coarse the model."""
    delta = replace(
        LAYER,
        attention=GatedDeltaConfig(2, 2, 8, 8, 4),
        mlp=MoeConfig(24, 5, 2, correction_bias=True, expert_scale=True),
    )
    weights = decoder(replace(CONFIG, layers=(delta,)), registry().specs, "bfloat16").weights.values()
    finer = {weight.name.removeprefix("model.layers.0.") for weight in weights if weight.dtype != "bfloat16"}
    of_router = {"mlp.gate.e_score_correction_bias", "mlp.gate.per_expert_scale"}
    assert finer == of_router | {"linear_attn.A_log", "linear_attn.dt_bias"}


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_of_one_number_needs_no_tensor(backend: str, dtype: str) -> None:
    g = GraphBuilder(registry().specs, dtype)
    graph = g.build(g.mul(g.input("x", ("T", 3), dtype), g.weight("twos", (3,), value=2.0)))
    assert graph.tensors() == {}
    (doubled,), _ = bind(graph, registry(), parse_selection(backend, "test"), Tensors({}))(
        {"x": X.astype(numpy_dtype(dtype))}, {}
    )
    np.testing.assert_array_equal(doubled.astype(np.float32), 2 * X)
