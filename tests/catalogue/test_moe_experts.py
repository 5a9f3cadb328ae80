"""moe_experts against transformers' layers, and how packed stacks are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, chosen
from tinyllm import ops
from tinyllm.catalogue.moe.moe_experts import moe_experts
from tinyllm.catalogue.moe.moe_experts_cases import layer
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.conformance.example import Example
from tinyllm.registry.choice import Form
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOKENS, EXPERTS, TOP_K, WIDTH, ROWS = 9, 6, 3, 10, 7


def _inputs(bias: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    drawn = {name: draw.make(rng) for name, draw in layer(TOKENS, EXPERTS, TOP_K, WIDTH, ROWS, bias=bias).items()}
    return {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in drawn.items()}


@pytest.mark.parametrize("backend", backends())
def test_it_is_the_layer_of_qwen3(backend: str) -> None:
    from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    given = _inputs()
    theirs = Qwen3MoeExperts(Qwen3MoeConfig(num_experts=EXPERTS, hidden_size=WIDTH, moe_intermediate_size=ROWS))
    theirs.gate_up_proj.data = torch.from_numpy(np.concatenate([given["gate_proj"], given["up_proj"]], axis=1))
    theirs.down_proj.data = torch.from_numpy(given["down_proj"])
    with torch.no_grad():
        of_experts = torch.from_numpy(given["experts"]).long(), torch.from_numpy(given["weights"])
        wanted = theirs(torch.from_numpy(given["x"]), *of_experts)
    got = ops.moe_experts(*given.values(), backend=backend)
    np.testing.assert_allclose(np.asarray(got), wanted.numpy(), atol=2e-6)


@pytest.mark.parametrize("backend", backends())
def test_it_is_the_clamped_layer_of_gpt_oss(backend: str) -> None:
    from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    given = _inputs(bias=True)
    theirs = GptOssExperts(GptOssConfig(num_local_experts=EXPERTS, hidden_size=WIDTH, intermediate_size=ROWS))
    theirs.limit = 0.7
    both = np.stack([given["gate_proj"], given["up_proj"]], axis=2).reshape(EXPERTS, 2 * ROWS, WIDTH)
    theirs.gate_up_proj.data = torch.from_numpy(both.swapaxes(1, 2).copy())
    theirs.gate_up_proj_bias.data = torch.from_numpy(np.stack([given["gate_bias"], given["up_bias"]], -1)).flatten(1)
    theirs.down_proj.data = torch.from_numpy(given["down_proj"].swapaxes(1, 2).copy())
    theirs.down_proj_bias.data = torch.from_numpy(given["down_bias"])
    with torch.no_grad():
        of_experts = torch.from_numpy(given["experts"]).long(), torch.from_numpy(given["weights"])
        wanted = theirs(torch.from_numpy(given["x"]), *of_experts)
    six, biases = list(given.values())[:6], {n: a for n, a in given.items() if n.endswith("bias")}
    got = ops.moe_experts(*six, **biases, limit=0.7, alpha=theirs.alpha, up_offset=1.0, backend=backend)
    np.testing.assert_allclose(np.asarray(got), wanted.numpy(), atol=5e-6)


@pytest.mark.parametrize("backend", backends())
def test_no_backend_expands_a_stack_as_a_whole(backend: str) -> None:
    """Three schemes at once, none of which numpy, torch or MLX read themselves."""
    from tests.catalogue.harness import registry

    rng, kinds = np.random.default_rng(0), ("q4_k", "q5_0", "q6_k")
    drawn = {name: draw.make(rng) for name, draw in layer(5, 3, 2, 256, 256).items()}
    given = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in drawn.items()}
    stacks = ("gate_proj", "up_proj", "down_proj")
    given |= {name: SCHEMES[kind].draw(rng, (3, 256, 256)) for name, kind in zip(stacks, kinds, strict=True)}
    tested = Example(moe_experts, "mixed", "float32", given, {})
    subject = chosen(tested, registry().backend(backend))
    assert subject.bind(tested.call).choice.form is not Form.EXPANDED
    np.testing.assert_allclose(subject(tested)[0], tested.expected[0], rtol=1e-3, atol=1e-3)


def test_a_call_reads_the_experts_that_are_named() -> None:
    """As many as tokens can name, and no more than there are."""
    four = QuantType((128, 768, 2048), SCHEMES["q4_k"]), QuantType((128, 2048, 768), SCHEMES["q4_k"])

    def moved(tokens: int) -> int:
        types = {"x": ArrayType((tokens, 2048), "float32"), "experts": ArrayType((tokens, 8), "int32")}
        types |= {"weights": ArrayType((tokens, 8), "float32")}
        stacks = {"gate_proj": four[0], "up_proj": four[0], "down_proj": four[1]}
        assert moe_experts.bytes is not None
        return moe_experts.bytes(check_call(moe_experts, types | stacks, {}))

    matrices = 3 * 768 * 2048 * 4.5 / 8
    assert moved(1) == int(8 * matrices) + 2 * 2048 * 4 + 64
    assert moved(64) == int(128 * matrices) + 64 * (2 * 2048 * 4 + 64)
