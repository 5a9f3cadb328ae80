"""What all backends share: runs of slots, dtype names, and arrays that callers cannot write to."""

from __future__ import annotations

import importlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalogue.harness import backends, registry
from tinyllm.graph.graph import State
from tinyllm.graph.program import Allocation, Program, Report
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.pages import runs


@pytest.mark.parametrize(
    ("slots", "wanted"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([4, 5, 6, 7], [(0, 4)]),
        ([6, 7, 8, 9], [(0, 2), (2, 4)]),
        ([1, 3, 2], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_runs_end_at_page_borders(slots: list[int], wanted: list[tuple[int, int]]) -> None:
    assert runs(np.array(slots, np.int64), 4) == wanted


@given(
    slots=st.lists(st.integers(0, 40), max_size=12),
    page_size=st.integers(1, 7),
    dtype=st.sampled_from(["int32", "uint32", "int64"]),
)
def test_runs_are_the_longest_copies(slots: list[int], page_size: int, dtype: str) -> None:
    """Every token is in one of them, each lies in neighbouring slots of one page, and no two could be one."""
    found = runs(np.array(slots, dtype), page_size)
    assert [token for first, end in found for token in range(first, end)] == list(range(len(slots)))
    joined = {token for first, end in found for token in range(first + 1, end)}
    for token in range(1, len(slots)):
        before, here = slots[token - 1], slots[token]
        assert (token in joined) == (here == before + 1 and here // page_size == before // page_size)


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bool", "int32", "uint32"])
def test_numpy_dtypes(name: str) -> None:
    assert numpy_dtype(name) == np.dtype(name)
    assert numpy_dtype("bfloat16") == ml_dtypes.bfloat16


@pytest.mark.parametrize("name", backends())
def test_host_arrays_are_never_written_to(name: str) -> None:
    """`to_numpy` may show the backend's own memory, so nobody may change it; what went in stays as writeable as it
    was."""
    backend = registry().backend(name)
    mine = np.arange(6, dtype=np.float32).reshape(2, 3)
    host = backend.to_numpy(backend.from_numpy(mine))
    np.testing.assert_array_equal(host, mine)
    with pytest.raises(ValueError, match="read-only"):
        host[0, 0] = 7
    assert mine.flags.writeable


@pytest.mark.parametrize("name", [b for b in backends() if b in ("numpy", "torch")])
@pytest.mark.parametrize("grown", [False, True])
def test_neighbouring_pages_are_read_in_place(name: str, grown: bool) -> None:
    """A program's pages lie head by head, also after they grew, so that a run of them is a view; other pages are
    gathered."""
    backend = registry().backend(name)
    assert backend.heads_first
    allocation = Allocation(State("k", (2, "page", 4), "float32"), backend)
    program = Program([], {}, 0, {}, {}, {}, [], {"k": allocation}, Report())
    state = program.allocate(6, 8)
    if grown:
        state = program.grow(state, 9, 16)
    pages = state["k"]
    module = importlib.import_module(f"tinyllm_{name}.paged_attention")
    size = pages.shape[2]
    for row, in_place in (([2, 3, 4], True), ([2, 4, 3], False)):
        read = backend.to_numpy(module._read(pages, np.array(row, np.int32), 3, 2 * size + 5))
        assert np.shares_memory(read, backend.to_numpy(pages)) == in_place
        assert read.shape[-2:] == (2 * size + 2, 4)
