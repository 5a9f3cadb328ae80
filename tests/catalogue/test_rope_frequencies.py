import numpy as np
import pytest

from tinyllm.catalogue.rope.rope_angles import rope_angles
from tinyllm.errors import InvalidInputError
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, frequencies_by_length, inverse_frequencies

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


def longrope(pairs, **settings):
    short, long = (np.geomspace(1, most, pairs).tolist() for most in (1.5, 40))
    return {"rope_type": "longrope", "short_factor": short, "long_factor": long, **settings}


@pytest.mark.parametrize("length", [1, 4096, 4097, 100_000])
@pytest.mark.parametrize("dims", [4, 96])
@pytest.mark.parametrize(
    "settings",
    [
        {"rope_type": "dynamic", "factor": 2.5},
        longrope(2, factor=32.0),
        longrope(2, factor=1.0),
        longrope(2, attention_factor=1.19),
        {"rope_type": "proportional", "partial_rotary_factor": 0.25},
        {"rope_type": "proportional", "partial_rotary_factor": 0.6, "factor": 4.0},
    ],
    ids=lambda p: ",".join(map(str, p.values())),
)
def test_frequencies_by_length_are_those_of_transformers_in_float64(settings, dims, length, monkeypatch):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = settings["rope_type"]
    if kind == "longrope":
        settings = {**settings, **longrope(dims // 2)}
    config = transformers.LlamaConfig(
        hidden_size=dims,
        num_attention_heads=1,
        head_dim=dims,
        max_position_embeddings=4096 if kind == "dynamic" else 131072,
        rope_parameters={"rope_theta": 10000.0, "original_max_position_embeddings": 4096, **settings},
    )
    for name in ("float", "float32"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    theirs, their_factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    assert theirs.dtype == torch.float64
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    original = {} if kind == "proportional" else {"original_max_position": 4096}
    scaling = as_scaling({"factor": 32.0 if kind == "longrope" else 1.0, **given, **original})
    ours = inverse_frequencies(dims, 10000.0, scaling, length)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-13)
    assert attention_factor(scaling, length) == pytest.approx(their_factor, rel=1e-15)
    if scaling.by_length:
        of_each, factors = frequencies_by_length(np, np.asarray([[length], [1.0]]), np.asarray, dims, 10000.0, scaling)
        np.testing.assert_allclose(of_each[0, 0], ours, rtol=1e-14)
        np.testing.assert_array_equal(of_each[1, 0], inverse_frequencies(dims, 10000.0, scaling, 1))
        assert factors == attention_factor(scaling, 1)


def test_a_factor_of_its_own_for_short_and_for_long_sequences_is_phi_moes():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.phimoe.modeling_phimoe import PhimoeRotaryEmbedding

    settings = longrope(4, short_mscale=1.25, long_mscale=1.75)
    config = transformers.PhimoeConfig(
        hidden_size=8,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": 10000.0, "original_max_position_embeddings": 16, **settings},
    )
    import torch

    theirs = PhimoeRotaryEmbedding(config)
    scaling = as_scaling(
        {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        | {"factor": 4.0, "original_max_position": 16}
    )
    for length in (16, 17):  # at position 0, as theirs has the frequencies of short sequences in long ones too
        cos, _ = theirs(torch.zeros(1), torch.arange(length)[None])
        ours, _ = rope_angles.reference(np, np.zeros(1), lengths=np.full(1, length), dims=8, scaling=scaling)
        np.testing.assert_allclose(ours, cos[0, :1, :4].numpy(), rtol=1e-7)


def test_a_scaling_by_length_needs_a_length():
    with pytest.raises(InvalidInputError, match="length"):
        inverse_frequencies(8, 10000.0, RopeScaling("dynamic", 2.0, 64))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"kind": "dynamic"}, "original_max_position: expected a positive integer for dynamic"),
        ({"kind": "longrope", "original_max_position": 8}, "short_factor: expected a tuple"),
        (
            {"kind": "longrope", "original_max_position": 8, "short_factor": (1.0,), "long_factor": (0.0,)},
            "long_factor",
        ),
        (
            {"kind": "longrope", "original_max_position": 8, "short_factor": (1.0,), "long_factor": (1.0, 2.0)},
            "1 numbers",
        ),
        ({"kind": "longrope", "original_max_position": 1, "short_factor": (1.0,), "long_factor": (1.0,)}, "above 1"),
        ({"kind": "proportional", "partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, match):
    with pytest.raises(InvalidInputError, match=match):
        RopeScaling(**settings)


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
