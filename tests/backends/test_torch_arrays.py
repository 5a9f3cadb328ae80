"""What crosses between numpy and torch: memory is shared where it may be, and never written to where it may not."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tinyllm_torch.backend import TorchBackend  # noqa: E402
from tinyllm_torch.paged_attention import kv_append  # noqa: E402

BACKEND = TorchBackend("cpu")
DTYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint32", "bool", ml_dtypes.bfloat16]


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("frozen", [False, True], ids=["writeable", "read-only"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back(dtype: Any, frozen: bool) -> None:
    """Same numbers, shape, dtype and memory, without a warning."""
    array = np.arange(6).reshape(2, 3).astype(dtype)
    array.flags.writeable = not frozen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = BACKEND.from_numpy(array)
    back = BACKEND.to_numpy(tensor)
    assert (back.dtype, back.shape, BACKEND.dtype_name(tensor)) == (array.dtype, array.shape, str(array.dtype))
    assert np.array_equal(back, array) and np.shares_memory(back, array)
    assert not back.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0)[::-1],
        np.arange(6.0).reshape(2, 3).T,
        np.array(2.5, np.float32),
        np.array(2.5, ml_dtypes.bfloat16),
        np.zeros((3, 0), np.float32),
        _frozen(np.zeros((0, 3), np.float32)),
        _frozen(np.arange(6.0).reshape(2, 3).T),
        _frozen(np.arange(6.0)[::-1]),
        np.arange(3, dtype=">f4"),
    ],
    ids=[
        "reversed",
        "transposed",
        "scalar",
        "bfloat16 scalar",
        "empty",
        "read-only empty",
        "read-only T",
        "read-only reversed",
        "big-endian",
    ],
)
def test_any_strides(array: np.ndarray) -> None:
    back = BACKEND.to_numpy(BACKEND.from_numpy(array))
    assert back.shape == array.shape and np.array_equal(back, array)


def test_the_owner_outlives_its_name() -> None:
    """A tensor on a read-only array keeps it alive."""
    tensor = BACKEND.from_numpy(_frozen(np.full(1000, 7.0)))
    del tensor.__dict__["tinyllm_read_only"]
    np.full(1000, 1.0)
    assert tensor.sum() == 7000


def test_read_only_pages_are_not_written_to() -> None:
    """kv_append may overwrite what it consumes, but not an array that numpy protects."""
    pages = _frozen(np.zeros((1, 1, 4, 2), np.float32))
    mine = np.zeros((1, 1, 4, 2), np.float32)
    rows = torch.ones(1, 1, 2)
    k, v = kv_append(BACKEND.from_numpy(pages), BACKEND.from_numpy(mine), rows, rows, np.array([2]))
    assert pages.sum() == 0 and mine.sum() == 2
    assert torch.equal(k, v)
