import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinyllm import ops
from tinyllm.catalogue.products.embedding import embedding
from tinyllm.errors import InvalidInputError
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, output_types

TABLE = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


shapes = array_shapes(min_dims=0, max_dims=3, min_side=0)


@given(ids=arrays(st.sampled_from([np.int32, np.int64, np.uint8]), shapes, elements=st.integers(0, 5)))
def test_each_id_gets_its_row(ids):
    y = embedding.reference(np, ids, TABLE)
    assert y.shape == (*ids.shape, 3)
    for place in np.ndindex(ids.shape):
        np.testing.assert_array_equal(y[place], TABLE[ids[place]])


def test_an_id_out_of_range_is_refused_at_every_call_not_only_the_first():
    ops.embedding(np.asarray([0, 5]), TABLE, backend="numpy")
    for bad in ([0, 6], [-1, 0]):
        with pytest.raises(InvalidInputError, match="ids from 0 to 5"):
            ops.embedding(np.asarray(bad), TABLE, backend="numpy")


def test_a_lookup_reads_the_rows_it_needs_and_no_table():
    types = {"ids": ArrayType((2,), "int32"), "weight": ArrayType((49152, 576), "bfloat16")}
    assert embedding.bytes(check_call(embedding, types, {})) == 2 * (4 + 2 * 576 * 2)


def test_types_are_inferred_for_named_sizes():
    types = {"ids": ArrayType(("T",), "int32"), "weight": ArrayType((9, 4), "float16")}
    assert output_types(embedding, check_call(embedding, types, {})) == (ArrayType(("T", 4), "float16"),)
