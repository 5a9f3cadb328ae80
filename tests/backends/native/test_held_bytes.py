"""A weight takes about as many bytes in memory as in its file, whatever its scheme."""

from __future__ import annotations

import numpy as np
import pytest

from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.plugins import ArrayType, Call, QuantWeight, numpy_dtype

packing = pytest.importorskip("tinyllm_native.packing")
ROWS, COLUMNS = 256, 4096


@pytest.mark.parametrize("name", sorted({*packing.SCHEMES} & {*SCHEMES}))
def test_a_packed_weight_takes_at_most_a_tenth_more_than_the_file(name: str) -> None:
    parts = SCHEMES[name].parts((ROWS, COLUMNS))
    arrays = {
        part: np.zeros(kind.shape, numpy_dtype(kind.dtypes[0])) for part, kind in parts.items() if not kind.optional
    }
    weight = QuantWeight(SCHEMES[name], arrays, (ROWS, COLUMNS))
    held = packing.pack(weight, Call("linear", {"x": ArrayType((1, COLUMNS), "float32"), "weight": weight.type}, {}))
    in_file = sum(array.nbytes for array in arrays.values())
    assert sum(array.nbytes for array in held.values()) <= 1.1 * in_file
