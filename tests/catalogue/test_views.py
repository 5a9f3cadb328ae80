import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm import ops
from tinyllm.catalogue.rows.views import merge_heads, split, split_heads
from tinyllm.errors import InvalidInputError
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, output_types

leads = st.lists(st.integers(0, 4), max_size=2).map(tuple)


def counted(*shape):
    return np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)


@given(lead=leads, sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple))
def test_the_parts_put_together_are_x(lead, sizes):
    x = counted(*lead, sum(sizes))
    parts = split.reference(np, x, sizes=sizes)
    assert [p.shape[-1] for p in parts] == list(sizes)
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), x)


@given(lead=leads, heads=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), dim=st.integers(0, 5))
def test_merging_the_heads_undoes_the_split(lead, heads, dim):
    x = counted(*lead, sum(heads) * dim)
    parts = split_heads.reference(np, x, heads=heads)
    assert [p.shape for p in parts] == [(*lead, h, dim) for h in heads]
    merged = [merge_heads.reference(np, p) for p in parts]
    np.testing.assert_array_equal(np.concatenate(merged, axis=-1), x)


def test_a_head_is_a_run_of_neighbours():
    q, k = split_heads.reference(np, counted(6), heads=(2, 1))
    np.testing.assert_array_equal(q, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(k, [[4, 5]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_one_part_comes_in_a_tuple_and_in_its_dtype(dtype):
    x = counted(2, 6).astype(dtype)
    for parts in (ops.split(x, sizes=(6,), backend="numpy"), ops.split_heads(x, heads=(3,), backend="numpy")):
        assert isinstance(parts, tuple)
        assert [p.dtype for p in parts] == [x.dtype]


def test_types_are_inferred_for_named_sizes():
    x = ArrayType(("T", 960), "float32")
    q, k, v = output_types(split_heads, check_call(split_heads, {"x": x}, {"heads": (9, 3, 3)}))
    assert (q.shape, k.shape, v.shape) == (("T", 9, 64), ("T", 3, 64), ("T", 3, 64))
    gate, up = output_types(split, check_call(split, {"x": x}, {"sizes": (320, 640)}))
    assert (gate.shape, up.shape) == (("T", 320), ("T", 640))
    assert output_types(merge_heads, check_call(merge_heads, {"x": q}, {})) == (ArrayType(("T", 576), "float32"),)


def test_the_formula_names_the_axis():
    assert "axis" in split.formula


def test_a_width_without_a_number_has_no_heads():
    with pytest.raises(InvalidInputError, match="split_heads: heads"):
        check_call(split_heads, {"x": ArrayType((2, "N"), "float32")}, {"heads": (2,)})
