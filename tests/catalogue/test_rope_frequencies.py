import numpy as np
import pytest

from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, inverse_frequencies

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}
FIELDS = {"rope_type": "kind", "original_max_position_embeddings": "original_max_position"}


def as_scaling(parameters):
    return RopeScaling(**{FIELDS.get(k, k): v for k, v in parameters.items()})


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("dims", [2, 64, 128])
@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "llama3", **LLAMA3},
        {"rope_type": "llama3", **LLAMA3, "factor": 32.0, "original_max_position_embeddings": 64},
        {"rope_type": "yarn", **YARN},
        {"rope_type": "yarn", **YARN, "truncate": False},
        {"rope_type": "yarn", **YARN, "beta_fast": 16.0, "beta_slow": 2.0},
        {"rope_type": "yarn", **YARN, "attention_factor": 0.75},
        {"rope_type": "yarn", **YARN, "mscale": 1.0, "mscale_all_dim": 0.707},
        {"rope_type": "yarn", **YARN, "mscale": 0.707},
        {"rope_type": "yarn", **YARN, "factor": 0.5},
        {"rope_type": "yarn", **YARN, "original_max_position_embeddings": 8},
    ],
    ids=lambda p: ",".join(map(str, p.values())),
)
def test_frequencies_and_factor_are_those_of_transformers(parameters, dims, base):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=dims,
        num_attention_heads=1,
        head_dim=dims,
        max_position_embeddings=16384,
        rope_parameters={"rope_theta": base, **parameters},
    )
    theirs, their_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    scaling = as_scaling(parameters)
    np.testing.assert_allclose(inverse_frequencies(dims, base, scaling), theirs.numpy(), rtol=2e-6)
    assert attention_factor(scaling) == pytest.approx(their_factor, rel=1e-12)


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_default_frequencies_are_those_of_transformers(base):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = transformers.LlamaConfig(
        hidden_size=576, num_attention_heads=9, rope_parameters={"rope_type": "default", "rope_theta": base}
    )
    np.testing.assert_allclose(
        inverse_frequencies(64, base), llama.LlamaRotaryEmbedding(config).inv_freq.numpy(), rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_a_factor_of_1_changes_nothing(kind):
    scaling = RopeScaling(kind, 1.0, 4096)
    np.testing.assert_allclose(inverse_frequencies(64, 10000.0, scaling), inverse_frequencies(64), rtol=1e-15)
    assert attention_factor(scaling) == 1.0


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_fast_pairs_are_kept_and_slow_ones_divided(kind):
    plain, stretched = inverse_frequencies(128), inverse_frequencies(128, 10000.0, RopeScaling(kind, 8.0, 4096))
    share = stretched / plain
    assert share[0] == 1.0
    assert share[-1] == pytest.approx(1 / 8)
    assert np.all(np.diff(share) <= 1e-12)


def test_equal_bounds_of_llama3_make_a_step():
    scaling = RopeScaling("llama3", 8.0, 4096, low_freq_factor=2.0, high_freq_factor=2.0)
    share = inverse_frequencies(128, 10000.0, scaling) / inverse_frequencies(128)
    assert set(np.round(share, 12)) == {1.0, 0.125}


def test_nobody_can_change_what_all_share():
    with pytest.raises(ValueError, match="read-only"):
        inverse_frequencies(8)[0] = 2.0
