import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm import ops
from tinyllm.catalogue.rope.rope import rope
from tinyllm.catalogue.rope.rope_angles import rope_angles
from tinyllm.catalogue.rope.rope_rotate import rope_rotate
from tinyllm.errors import InvalidInputError
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, output_types

YARN = RopeScaling("yarn", 4.0, 32)
positions = st.integers(-1000, 100_000)
layouts = pytest.mark.parametrize("traditional", [False, True])


def turn(x, **given):
    return rope.reference(np, x, **given)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@layouts
@given(offset=positions, pairs=st.integers(1, 9), seed=st.integers(0, 99))
def test_norms_are_kept(traditional, offset, pairs, seed):
    x = draw(3, 2 * pairs, seed=seed)
    y = turn(x, offset=np.asarray(offset), traditional=traditional)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-12)


@layouts
@given(shift=positions, seed=st.integers(0, 99))
def test_scores_depend_on_relative_position_only(traditional, shift, seed):
    q, k = draw(4, 16, seed=seed), draw(4, 16, seed=seed + 1)

    def scores(offset):
        return (
            turn(q, offset=np.asarray(offset), traditional=traditional)
            @ turn(k, offset=np.asarray(offset), traditional=traditional).T
        )

    np.testing.assert_allclose(scores(shift), scores(0), atol=1e-9)


@layouts
def test_position_0_changes_nothing_and_others_do(traditional):
    x = draw(2, 8)
    y = turn(x, traditional=traditional)
    np.testing.assert_array_equal(y[0], x[0])
    assert np.abs(y[1] - x[1]).max() > 0.1


@layouts
def test_a_turn_back_undoes_a_turn(traditional):
    x = draw(5, 8)
    there = turn(x, positions=np.arange(5), traditional=traditional)
    np.testing.assert_allclose(turn(there, positions=-np.arange(5), traditional=traditional), x, rtol=1e-13)


@layouts
@pytest.mark.parametrize(
    "settings", [{}, {"base": 5e5}, {"scaling": YARN}, {"position_scale": 0.25}, {"dims": 4}], ids=str
)
def test_rope_is_rope_rotate_of_rope_angles(settings, traditional):
    x, where = draw(2, 3, 4, 8), np.asarray([[0, 5, 2, 9], [-3, 100, 7, 1]])
    cos, sin = rope_angles.reference(np, where, **{"dims": 8, **settings})
    apart = rope_rotate.reference(np, x, cos[:, None], sin[:, None], traditional=traditional)
    np.testing.assert_array_equal(turn(x, positions=where, traditional=traditional, **settings), apart)


@given(offset=positions)
def test_an_offset_is_positions_that_count_from_it(offset):
    x = draw(3, 4, 8)
    np.testing.assert_array_equal(turn(x, offset=np.asarray(offset)), turn(x, positions=np.arange(4) + offset))


def test_an_offset_per_sequence_turns_each_as_if_alone():
    x = draw(2, 3, 4, 8)
    both = turn(x, offset=np.asarray([0, 9]))
    for row, offset in enumerate((0, 9)):
        np.testing.assert_array_equal(both[row], turn(x[row], offset=np.asarray(offset)))


def test_decoding_gives_what_prefill_gave():
    x = draw(2, 6, 8)
    steps = [turn(x[:, i : i + 1], offset=np.asarray(i)) for i in range(6)]
    np.testing.assert_array_equal(np.concatenate(steps, axis=-2), turn(x))


def test_the_layouts_are_permutations_of_each_other():
    x = draw(5, 8)
    neighbours = np.arange(8).reshape(4, 2).T.reshape(-1)
    np.testing.assert_array_equal(turn(x, traditional=True)[:, neighbours], turn(x[:, neighbours]))


@layouts
def test_dims_past_those_rotated_pass(traditional):
    x = draw(4, 10)
    y = turn(x, dims=6, traditional=traditional)
    np.testing.assert_array_equal(y[:, 6:], x[:, 6:])
    np.testing.assert_array_equal(y[:, :6], turn(x[:, :6], traditional=traditional))


def test_frequencies_may_be_given_and_0_leaves_a_pair_as_it_is():
    x = draw(4, 6)
    frequencies = 10000.0 ** -(np.arange(0, 6, 2) / 6)
    np.testing.assert_allclose(turn(x, inv_freq=frequencies), turn(x), rtol=1e-13)
    np.testing.assert_array_equal(turn(x, inv_freq=np.asarray([1.0, 0.0, 0.5]))[:, [1, 4]], x[:, [1, 4]])


def test_yarn_multiplies_only_the_rotated_dims():
    x = draw(3, 10)
    y = turn(x, dims=8, scaling=YARN)
    ratio = np.linalg.norm(y[:, :8], axis=-1) / np.linalg.norm(x[:, :8], axis=-1)
    np.testing.assert_allclose(ratio, 0.1 * np.log(4.0) + 1)
    np.testing.assert_array_equal(y[:, 8:], x[:, 8:])


@pytest.mark.parametrize("base", [10000.0, 5e5])
def test_torch_and_transformers_agree(base):
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=24, num_attention_heads=3, rope_parameters={"rope_type": "default", "rope_theta": base}
    )
    q, k = (
        torch.from_numpy(draw(2, 3, 7, 8).astype(np.float32)),
        torch.from_numpy(draw(2, 1, 7, 8, seed=1).astype(np.float32)),
    )
    where = torch.arange(7)[None] + torch.tensor([[0], [90]])
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, where)
    theirs = llama.apply_rotary_pos_emb(q, k, cos, sin)
    for x, y in zip((q, k), theirs, strict=True):
        np.testing.assert_allclose(turn(x.numpy(), positions=where.numpy(), base=base), y.numpy(), atol=2e-5)


def test_float64_angles_are_not_narrowed():
    where = np.asarray([131071])
    cos, _ = rope_angles.reference(np, where, inv_freq=np.asarray([0.7]))
    assert cos[0, 0] == np.cos(131071 * 0.7)


def test_the_bounds_cover_float32_angles_but_not_16_bit_ones():
    x, where = draw(3, 64), np.asarray([4095, 32767, 131071])
    attributes = {}
    exact = turn(x, positions=where)
    inputs = {"x": x, "positions": where}
    sizes = rope.scale(inputs, attributes, exact), rope.inner_scale(inputs, attributes, exact)

    def worst(dtype, eps):
        angles = where[:, None].astype(dtype) * (10000.0 ** -(np.arange(32) / 32)).astype(dtype)
        rough = rope_rotate.reference(np, x, np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64)))
        return np.max(np.abs(rough - exact) / (eps * sizes[0] + 2.0**-23 * sizes[1]))

    assert worst(np.float32, 2.0**-23) < rope.tolerance
    small = where % 2000  # float16 ends at 65504
    exact, inputs = turn(x, positions=small), {"x": x, "positions": small}
    where, sizes = small, (rope.scale(inputs, attributes, exact), rope.inner_scale(inputs, attributes, exact))
    assert worst(np.float16, 2.0**-10) > rope.tolerance


def test_a_plain_number_is_an_offset_and_all_numbers_share_a_plan():
    x = draw(2, 3, 8).astype(np.float32)
    op = ops.rope
    results = [op(x, offset=3, backend="numpy")]
    plans = len(op._dispatch._plans)
    results += [op(x, offset=n, backend="numpy") for n in (4, 5)]
    for n, result in zip((3, 4, 5), results, strict=True):
        np.testing.assert_array_equal(result, op(x, offset=np.asarray(n), backend="numpy"))
    assert len(op._dispatch._plans) == plans


@pytest.mark.parametrize("offset", [True, 1.0, "3"])
def test_only_whole_numbers_are_offsets(offset):
    with pytest.raises(InvalidInputError, match="rope: offset"):
        ops.rope(np.zeros((3, 8), np.float32), offset=offset, backend="numpy")


def test_types_are_inferred_for_named_sizes():
    x, where = ArrayType(("T", 9, 64), "bfloat16"), ArrayType(("T",), "int32")
    angles = output_types(rope_angles, check_call(rope_angles, {"positions": where}, {"dims": 64}))
    assert angles == (ArrayType(("T", 32), "float32"),) * 2
    cos = ArrayType(("T", 1, 32), "float32")
    assert output_types(rope_rotate, check_call(rope_rotate, {"x": x, "cos": cos, "sin": cos}, {})) == (x,)
    heads = ArrayType((9, "T", 64), "float32")
    assert output_types(rope, check_call(rope, {"x": heads, "positions": where}, {})) == (heads,)
    unknown = ArrayType(("T", "D"), "float32")
    assert output_types(rope, check_call(rope, {"x": unknown}, {})) == (unknown,)
    other = ArrayType(("S",), "int32")
    with pytest.raises(InvalidInputError, match="rope: positions"):
        check_call(rope, {"x": heads, "positions": other}, {})
