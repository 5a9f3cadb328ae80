from dataclasses import replace

import numpy as np
import pytest

from tinyllm import ops
from tinyllm.catalogue.attention.gqa import gqa
from tinyllm.catalogue.attention.mha import mha
from tinyllm.catalogue.quantize.dequantize import dequantize
from tinyllm.catalogue.rope.rope import rope
from tinyllm.catalogue.rows.rms_norm import rms_norm
from tinyllm.catalogue.schemes import Affine, Int8
from tinyllm.errors import InvalidInputError
from tinyllm.spec.rope import Rope, RopeScaling
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, output_types

B, L, S, E, HEADS, KV_HEADS, DIM = 2, 5, 6, 12, 4, 2, 4
GROUPED = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
ROPE = Rope(base=100.0)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def run(query, layer, **given):
    layer = dict(layer)
    return mha.reference(np, query, layer.pop("q_proj"), layer.pop("o_proj"), **layer, **given)


def grouped(*without):
    """A self-attention layer with grouped heads, biases and norms."""
    sizes = {"q": (HEADS * DIM, E), "k": (KV_HEADS * DIM, E), "v": (KV_HEADS * DIM, E), "o": (E, HEADS * DIM)}
    layer = {f"{n}_proj": draw(*size, seed=i) / 3 for i, (n, size) in enumerate(sizes.items())}
    layer |= {f"{n}_bias": draw(size[0], seed=10 + i) for i, (n, size) in enumerate(sizes.items())}
    layer |= {"q_norm": draw(DIM, seed=20), "k_norm": draw(DIM, seed=21)}
    return {name: array for name, array in layer.items() if name not in without}


def heads(x, count):
    return np.swapaxes(x.reshape(*x.shape[:-1], count, -1), -2, -3)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def theirs(torch, *, bias, kdim, vdim, bias_kv, zero):
    """torch's layer with random numbers everywhere, and its weights under our names."""
    layer = torch.nn.MultiheadAttention(
        E,
        HEADS,
        bias=bias,
        kdim=kdim,
        vdim=vdim,
        add_bias_kv=bias_kv,
        add_zero_attn=zero,
        batch_first=True,
        dtype=torch.float64,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)
    state = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    packed = state.get("in_proj_weight")
    projections = [state[f"{n}_proj_weight"] for n in "qkv"] if packed is None else np.split(packed, 3)
    ours = {**dict(zip(("q_proj", "k_proj", "v_proj"), projections, strict=True)), "o_proj": state["out_proj.weight"]}
    if bias:
        ours |= dict(zip(("q_bias", "k_bias", "v_bias"), np.split(state["in_proj_bias"], 3), strict=True))
        ours["o_bias"] = state["out_proj.bias"]
    if bias_kv:
        ours |= {"bias_k": state["bias_k"].reshape(-1), "bias_v": state["bias_v"].reshape(-1)}
    return layer, ours


@pytest.mark.parametrize("need_weights", ["mean", "heads"])
@pytest.mark.parametrize("masked", ["", "bool", "float", "keys"])
@pytest.mark.parametrize(("kdim", "vdim"), [(None, None), (7, 9)])
@pytest.mark.parametrize(
    ("bias", "bias_kv", "zero"), [(True, False, False), (False, False, True), (True, True, True), (False,) * 3]
)
def test_torch_computes_the_same(torch, bias, bias_kv, zero, kdim, vdim, masked, need_weights):
    layer, ours = theirs(torch, bias=bias, kdim=kdim, vdim=vdim, bias_kv=bias_kv, zero=zero)
    query, key, value = draw(B, L, E), draw(B, S, kdim or E, seed=1), draw(B, S, vdim or E, seed=2)
    mask = draw(L, S, seed=3)
    key_mask = np.arange(S)[None, :] < np.array([[S], [2]])
    bools = (mask > 0) | np.eye(L, S, dtype=bool)
    given = {"bool": {"mask": bools}, "float": {"mask": mask}, "keys": {"key_mask": key_mask}, "": {}}[masked]
    foreign = {
        "bool": {"attn_mask": ~bools},
        "float": {"attn_mask": mask},
        "keys": {"key_padding_mask": ~key_mask},
        "": {},
    }[masked]
    expected = layer(
        *map(torch.tensor, (query, key, value)),
        average_attn_weights=need_weights == "mean",
        **{name: torch.tensor(m) for name, m in foreign.items()},
    )
    given |= {"num_heads": HEADS, "need_weights": need_weights, "add_zero_attn": zero}
    got = run(query, ours, key=key, value=value, **given)
    for ours_out, theirs_out in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours_out, theirs_out.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("after_rope", [False, True])
@pytest.mark.parametrize(
    "turned", [None, ROPE, Rope(dims=2, traditional=True, scaling=RopeScaling("linear", 2.0), position_scale=3.0)]
)
def test_it_is_its_parts_put_together(after_rope, turned):
    layer, x = grouped(), draw(B, L, E)
    q, k, v = (
        heads(x @ layer[f"{n}_proj"].T + layer[f"{n}_bias"], h)
        for n, h in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
    )
    steps = [lambda a, norm: rms_norm.reference(np, a, norm, eps=1e-6)]
    if turned:
        settings = {
            name: getattr(turned, name) for name in ("dims", "base", "scaling", "traditional", "position_scale")
        }
        steps.append(lambda a, norm: rope.reference(np, a, **settings))
    for step in steps[::-1] if after_rope else steps:
        q, k = step(q, layer["q_norm"]), step(k, layer["k_norm"])
    y = (
        np.swapaxes(gqa.reference(np, q, k, v, causal=True), 1, 2).reshape(B, L, -1) @ layer["o_proj"].T
        + layer["o_bias"]
    )
    got = run(x, layer, **GROUPED, causal=True, rope=turned, qk_norm_after_rope=after_rope)
    np.testing.assert_allclose(got, y, atol=1e-12)


def test_the_order_of_norm_and_rotation_matters():
    one, other = (
        run(draw(B, L, E), grouped(), **GROUPED, rope=ROPE, qk_norm_after_rope=after) for after in (False, True)
    )
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("cuts", [[1, 2, 3, 4], [3], [2, 4]])
@pytest.mark.parametrize("window", [None, 2])
def test_with_a_cache_it_is_what_it_is_in_one_go(cuts, window):
    layer, x, given = (
        grouped(),
        draw(B, L, E),
        GROUPED | {"causal": True, "rope": ROPE, "window": window, "return_kv": True},
    )
    expected, all_k, all_v = run(x, layer, **given)
    parts, past = [], {}
    for piece in np.split(x, cuts, axis=1):
        y, k, v = run(piece, layer | past, **given)
        parts.append(y)
        past = {"past_k": k, "past_v": v}
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-12)
    np.testing.assert_allclose(past["past_k"], all_k, atol=1e-12)
    np.testing.assert_allclose(past["past_v"], all_v, atol=1e-12)


def test_cross_attention_over_keys_made_once():
    layer, x, memory = grouped(), draw(B, L, E), draw(B, S, E, seed=1)
    expected, k, v = run(x, layer, key=memory, **GROUPED, return_kv=True)
    assert k.shape == v.shape == (B, KV_HEADS, S, DIM)
    cached = grouped("k_proj", "v_proj", "k_bias", "v_bias", "k_norm") | {"past_k": k, "past_v": v}
    np.testing.assert_allclose(run(x, cached, **GROUPED), expected, atol=1e-12)


def test_left_padding_with_positions_changes_nothing():
    layer, x, hidden, given = grouped(), draw(1, L, E), 2, GROUPED | {"causal": True, "rope": ROPE}
    padded = np.concatenate([np.full((1, hidden, E), np.nan), x], axis=1)
    places = np.arange(L + hidden) - hidden
    y = run(padded, layer, key_mask=(places >= 0)[None], positions=places[None], **given)
    np.testing.assert_allclose(y[:, hidden:], run(x, layer, **given), atol=1e-12)


def test_rotation_counts_from_the_past():
    """Without positions the first new token stands right after the cached ones; the default is not 0."""
    layer, x = grouped(), draw(B, L, E)
    past = {"past_k": draw(B, KV_HEADS, 3, DIM), "past_v": draw(B, KV_HEADS, 3, DIM, seed=1)}
    default, explicit, zero = (
        run(x, layer | past, **GROUPED, rope=ROPE, positions=p) for p in (None, np.arange(3, 3 + L), np.arange(L))
    )
    np.testing.assert_array_equal(default, explicit)
    assert np.abs(default - zero).max() > 0.01


def test_a_query_that_sees_nothing_gives_the_bias():
    y, weights = run(draw(B, L, E), grouped(), mask=np.zeros((L, L), bool), need_weights="mean", **GROUPED)
    np.testing.assert_array_equal(y, np.broadcast_to(grouped()["o_bias"], y.shape))
    np.testing.assert_array_equal(weights, 0)


def test_the_learned_key_and_the_key_of_zeros_are_seen_behind_any_mask():
    given = GROUPED | {
        "mask": np.zeros((L, L), bool),
        "add_zero_attn": True,
        "need_weights": "heads",
        "return_kv": True,
    }
    extra = {"bias_k": draw(KV_HEADS * DIM), "bias_v": draw(KV_HEADS * DIM, seed=1)}
    _, weights, k, v = run(draw(B, L, E), grouped() | extra, **given)
    assert weights.shape == (B, HEADS, L, L + 2)
    np.testing.assert_array_equal(weights[..., :L], 0)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert k.shape[-2] == v.shape[-2] == L


@pytest.mark.parametrize("scheme", [Affine(4, 32), Int8(32)], ids=str)
def test_quantized_projections_are_their_dequantized_ones(scheme):
    sizes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}
    layer = {f"{n}_proj": scheme.draw(np.random.default_rng(i), size) for i, (n, size) in enumerate(sizes.items())}
    plain = {name: dequantize.reference(np, replace(weight, dtype="float64")) for name, weight in layer.items()}
    np.testing.assert_array_equal(run(draw(1, L, 64), layer, **GROUPED), run(draw(1, L, 64), plain, **GROUPED))


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 0),
        ({"need_weights": "mean"}, 2),
        ({"return_kv": True}, 3),
        ({"need_weights": "heads", "return_kv": True}, 4),
    ],
)
def test_outputs_are_those_asked_for(settings, count):
    """The op itself, and the types inferred from sizes that are known by name only."""
    x, layer = draw(B, L, E), grouped()
    result = ops.mha(x, **layer, **GROUPED, **settings, backend="numpy")
    assert isinstance(result, tuple) == bool(count) and (not count or len(result) == count)
    types = {name: ArrayType(array.shape, "float64") for name, array in layer.items()}
    past = ArrayType(("B", KV_HEADS, "P", DIM), "float64")
    types |= {"query": ArrayType(("B", "L", E), "float64"), "past_k": past, "past_v": past}
    inferred = output_types(mha, check_call(mha, types, GROUPED | settings))
    assert len(inferred) == (count or 1) and inferred[0].shape == ("B", "L", E)
    if settings.get("return_kv"):
        assert inferred[-1].shape == ("B", KV_HEADS, "P+L", DIM)


@pytest.mark.parametrize("settings", [{"dims": 3}, {"dims": 0}, {"base": 1.0}])
def test_a_rope_that_cannot_be_is_refused(settings):
    with pytest.raises(InvalidInputError, match="rope: "):
        Rope(**settings)
