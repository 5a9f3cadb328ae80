"""How chunks are laid side by side in a step."""

from __future__ import annotations

import numpy as np
import pytest

from tinyllm.engine.model_runner import Chunk, make_step


def test_a_prefill_beside_a_decode_beside_a_late_chunk() -> None:
    batch = make_step([Chunk([7, 8, 9], 0, [2]), Chunk([5], 6, [1, 3]), Chunk([1, 2], 3, [0, 5])], page_size=4)
    expected = {
        "tokens": [7, 8, 9, 5, 1, 2],
        "positions": [0, 1, 2, 6, 3, 4],
        "lengths": [3, 3, 3, 7, 5, 5],
        "slots": [8, 9, 10, 3 * 4 + 2, 3, 5 * 4],
        "q_start": [0, 3, 4, 6],
        "kv_len": [3, 7, 5],
        "block_table": [[2, -1], [1, 3], [0, 5]],
        "logit_rows": [2, 3, 5],
    }
    for name, values in expected.items():
        array = getattr(batch, name)
        assert array.tolist() == values, name
        assert array.dtype == np.int32, name


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_prompt_in_chunks_has_the_length_that_it_has_in_one_piece(chunk: int) -> None:
    """And each token after it that of the sequence up to it, also where it is read anew."""
    lengths = []
    for start in range(0, 7, chunk):
        tokens = list(range(start, min(start + chunk, 7)))
        lengths += make_step([Chunk(tokens, start, [0], whole=5)], page_size=8).lengths.tolist()
    assert lengths == [5, 5, 5, 5, 5, 6, 7]


@pytest.mark.parametrize(("rows", "wanted"), [(0, [1]), (1, [1, 4]), (2, [1, 3, 4]), (3, [1, 2, 3, 4])])
def test_a_chunk_asks_for_the_logits_of_its_last_rows(rows: int, wanted: list[int]) -> None:
    batch = make_step([Chunk([1, 2], 0, [0]), Chunk([3, 4, 5], 0, [1], rows)], page_size=8)
    assert batch.logit_rows.tolist() == wanted


def test_a_step_may_ask_for_no_logits() -> None:
    rows = make_step([Chunk([1, 2], 0, [0], rows=0)], page_size=8).logit_rows
    assert (rows.shape, rows.dtype) == ((0,), np.int32)


@pytest.mark.parametrize("page_size", [1, 2, 5, 64])
def test_slots_of_one_sequence_never_meet(page_size: int) -> None:
    pages = list(range(40))[::-1]
    batch = make_step([Chunk(list(range(40)), 0, pages)], page_size)
    assert len(set(batch.slots.tolist())) == 40
    assert all(slot == pages[p // page_size] * page_size + p % page_size for p, slot in enumerate(batch.slots.tolist()))
