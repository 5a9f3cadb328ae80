"""moe_router against the routers of the models that it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends
from tinyllm import ops
from tinyllm.catalogue.moe.moe_router import moe_router
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, output_types

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EXPERTS, TOP_K, WIDTH, TOKENS = 16, 4, 12, 40


def _router(family: str, **settings: Any) -> Any:
    """A router of transformers with random weights."""
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=["_"])
    name = {"qwen3_moe": "Qwen3MoeTopKRouter", "mixtral": "MixtralTopKRouter", "gpt_oss": "GptOssTopKRouter",
            "deepseek_v3": "DeepseekV3TopkRouter", "glm4_moe": "Glm4MoeTopkRouter"}[family]  # fmt: skip
    sizes = {"hidden_size": WIDTH, "num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "num_local_experts": EXPERTS,
             "n_routed_experts": EXPERTS}  # fmt: skip
    router = getattr(module, name)(type("Config", (), sizes | settings)())
    generator = torch.Generator().manual_seed(0)
    for tensor in (*router.parameters(), *router.buffers()):
        tensor.data = torch.randn(tensor.shape, generator=generator) * (0.5 if tensor.ndim > 1 else 0.2)
    return router


DEEPSEEK = {"n_group": 4, "topk_group": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5}
SAME = {"score": "sigmoid", "normalize": True, "scaling": 2.5, "groups": 4, "groups_kept": 2}
ROUTERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Qwen3-MoE": ("qwen3_moe", {"norm_topk_prob": True}, {"normalize": True}),
    "Qwen3-MoE, not normalized": ("qwen3_moe", {"norm_topk_prob": False}, {}),
    "Mixtral": ("mixtral", {"router_jitter_noise": 0.0}, {"score": "softmax_of_chosen"}),
    "Mixtral, normalized": ("mixtral", {"router_jitter_noise": 0.0}, {"normalize": True}),
    "gpt-oss": ("gpt_oss", {}, {"score": "softmax_of_chosen"}),
    "DeepSeek-V3": ("deepseek_v3", DEEPSEEK, SAME),
    "GLM-4.x": ("glm4_moe", DEEPSEEK, SAME),
    "GLM-4.x, not normalized": ("glm4_moe", DEEPSEEK | {"norm_topk_prob": False}, SAME | {"normalize": False}),
}


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", ROUTERS)
def test_it_chooses_and_weighs_as_the_model_does(name: str, backend: str) -> None:
    family, theirs, ours = ROUTERS[name]
    router = _router(family, **theirs)
    with torch.no_grad():
        logits, weights, experts = router(torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)))
    bias = getattr(router, "e_score_correction_bias", None)
    more = {} if bias is None else {"bias": bias.numpy()}
    got_experts, got_weights = map(
        np.asarray, ops.moe_router(logits.numpy(), top_k=TOP_K, backend=backend, **more, **ours)
    )
    dense, wanted = (np.zeros((TOKENS, EXPERTS), np.float32) for _ in range(2))
    np.put_along_axis(dense, got_experts.astype(np.int64), got_weights, axis=-1)
    np.put_along_axis(wanted, experts.numpy(), weights.numpy(), axis=-1)
    np.testing.assert_allclose(dense, wanted, rtol=2e-6, atol=1e-9)
    if bias is None:  # then the order is that of the weights as well
        assert (np.diff(got_weights) <= 0).all()
        np.testing.assert_array_equal(got_experts, experts.numpy())


@pytest.mark.parametrize("backend", backends())
def test_nan_is_chosen_last_and_never_makes_a_number_out_of_range(backend: str) -> None:
    logits = np.asarray([[np.nan, 1.0, np.nan, 2.0], [np.nan] * 4], np.float32)
    experts, _ = map(np.asarray, ops.moe_router(logits, top_k=3, backend=backend))
    assert experts.tolist() == [[3, 1, 0], [0, 1, 2]]


def test_types_are_inferred_for_named_sizes() -> None:
    call = check_call(moe_router, {"logits": ArrayType(("T", 8), "bfloat16")}, {"top_k": 2})
    assert output_types(moe_router, call) == (ArrayType(("T", 2), "int32"), ArrayType(("T", 2), "float32"))
