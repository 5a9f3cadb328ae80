import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm import ops
from tinyllm.catalogue.attention.gqa import gqa
from tinyllm.catalogue.attention.sdpa import sdpa
from tinyllm.errors import InvalidInputError
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, output_types

settings = st.fixed_dictionaries(
    {
        "causal": st.booleans(),
        "window": st.none() | st.integers(1, 6),
        "softcap": st.none() | st.floats(0.5, 20),
        "scale": st.none() | st.floats(-2, 2),
    }
)
sizes = st.integers(1, 4)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def attend(q, k, v, **given):
    return gqa.reference(np, q, k, v, **given)


@given(
    kv_heads=sizes,
    groups=sizes,
    length=st.integers(0, 5),
    keys=st.integers(0, 6),
    given_settings=settings,
    masked=st.booleans(),
    sunk=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_attention_with_kv_heads_repeated(kv_heads, groups, length, keys, given_settings, masked, sunk, seed):
    heads = kv_heads * groups
    q, k, v = (
        draw(2, heads, length, 8, seed=seed),
        draw(2, kv_heads, keys, 8, seed=seed + 1),
        draw(2, kv_heads, keys, 5, seed=seed + 2),
    )
    extra = {"mask": draw(2, heads, length, keys, seed=seed + 3) > 0} if masked else {}
    extra |= {"sinks": draw(heads, seed=seed + 4)} if sunk else {}
    repeated = sdpa.reference(
        np, q, np.repeat(k, groups, axis=1), np.repeat(v, groups, axis=1), **given_settings, **extra
    )
    np.testing.assert_allclose(attend(q, k, v, **given_settings, **extra), repeated, atol=1e-12)


def test_a_kv_head_serves_neighbouring_query_heads():
    q, k, v = draw(6, 2, 4), draw(3, 5, 4, seed=1), draw(3, 5, 4, seed=2)
    other = v.copy()
    other[1] += 1.0
    changed = np.abs(attend(q, k, other) - attend(q, k, v)).max(axis=(1, 2)) > 0.1
    assert changed.tolist() == [False, False, True, True, False, False]


@given(seed=st.integers(0, 999), softcap=st.none() | st.floats(1, 20))
def test_the_order_of_keys_does_not_matter(seed, softcap):
    q, k, v, mask = (
        draw(4, 3, 8, seed=seed),
        draw(2, 7, 8, seed=seed + 1),
        draw(2, 7, 8, seed=seed + 2),
        draw(3, 7, seed=seed + 3),
    )
    order = np.random.default_rng(seed).permutation(7)
    straight = attend(q, k, v, mask=mask, softcap=softcap)
    np.testing.assert_allclose(
        attend(q, k[:, order], v[:, order], mask=mask[:, order], softcap=softcap), straight, atol=1e-12
    )


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), new=st.integers(1, 4), given_settings=settings)
def test_lengths_mean_that_each_sequence_ends_there(lengths, new, given_settings):
    q, k, v = draw(len(lengths), 4, new, 8), draw(len(lengths), 2, 6, 8, seed=1), draw(len(lengths), 2, 6, 8, seed=2)
    for b, length in enumerate(lengths):
        k[b, :, length:], v[b, :, length:] = np.nan, np.inf
    together = attend(q, k, v, kv_lengths=np.asarray(lengths), **given_settings)
    for b, length in enumerate(lengths):
        alone = attend(q[b], k[b, :, :length], v[b, :, :length], **given_settings)
        np.testing.assert_allclose(together[b], alone, atol=1e-12)


@given(hidden=st.integers(0, 4), causal=st.booleans())
def test_left_padding_is_as_if_it_were_not_there(hidden, causal):
    q, k, v = draw(1, 4, 5, 8), draw(1, 2, 5, 8, seed=1), draw(1, 2, 5, 8, seed=2)
    k[:, :, :hidden], v[:, :, :hidden] = np.nan, np.nan
    padded = attend(q, k, v, key_mask=np.arange(5)[None, :] >= hidden, causal=causal)[:, :, hidden:]
    alone = attend(*(a[:, :, hidden:] for a in (q, k, v)), causal=causal)
    np.testing.assert_allclose(padded, alone, atol=1e-12)


def test_a_key_mask_and_a_mask_intersect():
    q, k, v, mask, key_mask = (
        draw(2, 4, 3, 8),
        draw(2, 2, 5, 8),
        draw(2, 2, 5, 8, seed=1),
        draw(3, 5) > 0,
        draw(2, 5, seed=2) > 0,
    )
    both = attend(q, k, v, mask=mask, key_mask=key_mask)
    np.testing.assert_array_equal(both, attend(q, k, v, mask=mask & key_mask[:, None, None, :]))
    assert np.abs(both - attend(q, k, v, mask=mask)).max() > 0.1


def test_a_sink_takes_weight_away_and_gives_no_value():
    q, k, v = draw(4, 3, 8), draw(2, 5, 8, seed=1), np.ones((2, 5, 8))
    shares = attend(q, k, v, sinks=np.array([-np.inf, 0.0, 3.0, 1e4]))[:, 0, 0]
    assert shares[0] == pytest.approx(1) and 0 < shares[1] < 1 and shares[3] == 0


@pytest.mark.parametrize("causal", [False, True])
def test_torch_agrees(causal):
    torch = pytest.importorskip("torch")
    q, k, v = draw(2, 6, 5, 8), draw(2, 3, 5, 8, seed=1), draw(2, 3, 5, 8, seed=2)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.tensor, (q, k, v)), is_causal=causal, enable_gqa=True
    )
    np.testing.assert_allclose(attend(q, k, v, causal=causal), theirs.numpy(), atol=1e-12)


def test_sizes_known_by_name_only():
    def floats(*shape):
        return ArrayType(shape, "float32")

    types = {"q": floats("B", 9, "L", 64), "k": floats("B", 3, "S", 64), "v": floats("B", 3, "S", 32)}
    types |= {
        "mask": ArrayType(("L", "S"), "bool"),
        "key_mask": ArrayType(("B", "S"), "bool"),
        "kv_lengths": ArrayType(("B",), "int32"),
    }
    assert output_types(gqa, check_call(gqa, types, {}))[0].shape == ("B", 9, "L", 32)
    with pytest.raises(InvalidInputError, match="gqa: mask"):
        check_call(gqa, types | {"mask": ArrayType(("S", "L"), "bool")}, {})


def test_two_dtypes_are_both_named():
    q, k = draw(4, 3, 8).astype(np.float32), draw(2, 3, 8).astype(np.float16)
    with pytest.raises(InvalidInputError, match=r"gqa: k: expected the dtype of q \(float32\), got float16"):
        ops.gqa(q, k, k, backend="numpy")
