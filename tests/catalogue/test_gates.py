"""Gated activations, gates, caps and norms as the models have them: transformers is the judge."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinyllm.catalogue import CATALOGUE

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

RNG = np.random.default_rng(0)


def _reference(op: str, *arrays: Any, **attributes: Any) -> Any:
    return CATALOGUE[op].reference(np, *arrays, **attributes)


def _close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_an_rms_norm_with_an_offset_is_gemmas(family: str) -> None:
    module = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    norm = getattr(module, {"gemma": "GemmaRMSNorm", "gemma2": "Gemma2RMSNorm", "gemma3": "Gemma3RMSNorm"}[family])
    theirs = norm(33, eps=1e-5).double()
    x, weight = RNG.standard_normal((3, 33)) * 4, RNG.standard_normal(33) * 0.1
    theirs.weight.data = torch.from_numpy(weight)
    _close(_reference("rms_norm", x, weight, eps=1e-5, offset=1.0), theirs(torch.from_numpy(x)))


def test_a_layer_norm_without_a_bias_is_cohere2s() -> None:
    from transformers.models.cohere2.modeling_cohere2 import Cohere2LayerNorm

    theirs = Cohere2LayerNorm(33, eps=1e-3).double()
    x, weight = RNG.standard_normal((3, 33)) + 2, RNG.standard_normal(33)
    theirs.weight.data = torch.from_numpy(weight)
    _close(_reference("layer_norm", x, weight, eps=1e-3), theirs(torch.from_numpy(x)))


def test_torch_judges_layer_norm() -> None:
    x, weight, bias = RNG.standard_normal((4, 65)) + 1, RNG.standard_normal(65), RNG.standard_normal(65)
    tensors = [torch.from_numpy(a) for a in (x, weight, bias)]
    theirs = torch.nn.functional.layer_norm(tensors[0], (65,), *tensors[1:], 1e-2)
    ours = _reference("layer_norm", x, weight, bias=bias, eps=1e-2)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-13, atol=1e-13)


def test_a_limited_swiglu_is_the_activation_of_gpt_oss() -> None:
    """Gates and ups on both sides of the limit."""
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    gate, up = RNG.standard_normal((2, 5, 64)) * 8
    both = torch.from_numpy(np.stack((gate, up), axis=-1).reshape(5, 128))
    theirs = GptOssExperts._apply_gate(SimpleNamespace(alpha=1.702, limit=7.0), both)
    _close(_reference("swiglu", gate, up, limit=7.0, alpha=1.702, up_offset=1.0), theirs)


def test_geglu_is_the_activation_of_gemma() -> None:
    from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
    from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP

    theirs = Gemma2MLP(Gemma2Config(hidden_size=8, intermediate_size=24)).double()
    x = RNG.standard_normal((3, 8)) * 4
    weights = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    gate, up = (x @ weights[f"{name}_proj.weight"].T for name in ("gate", "up"))
    _close(_reference("geglu", gate, up) @ weights["down_proj.weight"].T, theirs(torch.from_numpy(x)))


def test_a_softcap_is_below_its_cap_and_of_slope_1_at_0() -> None:
    x = np.concatenate((np.linspace(-200, 200, 401), [1e-6, -1e-6]))
    y = _reference("softcap", x, cap=30.0)
    assert np.all(np.abs(y) <= 30) and np.all(np.diff(y[:401]) >= 0)
    np.testing.assert_allclose(y[-2:], x[-2:], rtol=1e-12)


def test_mul_takes_a_number_a_row() -> None:
    """As many as it is given: those of a row of its own are the product with a diagonal matrix."""
    x, y = RNG.standard_normal((4, 5)), RNG.standard_normal((4, 1))
    np.testing.assert_allclose(_reference("mul", x, y), np.diag(y[:, 0]) @ x, rtol=1e-15)
