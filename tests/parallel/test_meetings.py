"""Sums in shared memory, in C beside ranks that run Python: the same bits, and an end to every wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tinyllm_native.parallel import all_reduce
from tinyllm_numpy.parallel import all_reduce as by_group

from tinyllm.errors import ModelGoneError
from tinyllm.parallel.shared_memory import PART, SharedMemoryGroup, shared_file
from tinyllm.plugins import numpy_dtype


def groups(ranks: int, patience: float = 20.0, check: Callable[[], None] = lambda: None) -> list[SharedMemoryGroup]:
    descriptor = shared_file(ranks)
    return [SharedMemoryGroup(rank, ranks, descriptor, check, patience) for rank in range(ranks)]


def drawn(rank: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array: np.ndarray = np.random.default_rng(rank).normal(0, 100, shape).astype(numpy_dtype(dtype))
    return array


@pytest.mark.parametrize("in_c", [0, 2])
def test_ranks_in_c_and_in_python_make_the_same_bits(in_c: int) -> None:
    """Call after call, also of more numbers than a part holds, and of none; 16 bits are rounded once."""
    calls = [((1, 7), "float32"), ((0, 4), "float32"), ((3, PART // 8), "float32"), ((2, 33), "float16")]
    calls += [((5, PART // 8), "bfloat16"), ((40, 70), "float32")]

    def run(group: SharedMemoryGroup) -> list[bytes]:
        function = all_reduce if group.rank == in_c else by_group
        return [function(drawn(group.rank, *call), group=group).tobytes() for call in calls]

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(run, groups(3))
    assert others == [first] * 2
    for made, (shape, dtype) in zip(first, calls, strict=True):
        zero, one, two = (drawn(rank, shape, dtype).astype(np.float32) for rank in range(3))
        assert made == (zero + one + two).astype(numpy_dtype(dtype)).tobytes()


def test_one_that_does_not_come_is_not_waited_for_without_end() -> None:
    first, second = groups(2, patience=0.1)
    x = np.ones(3, np.float32)
    with pytest.raises(ModelGoneError, match=r"does not answer for 0\.1 s"):
        all_reduce(x, group=first)
    with pytest.raises(ModelGoneError, match="another process failed in this step"):
        all_reduce(x, group=second)


@pytest.mark.parametrize("error", [ModelGoneError, KeyboardInterrupt])
def test_what_the_check_raises_while_waiting_ends_the_wait(error: type[BaseException]) -> None:
    def check() -> None:
        raise error("process 1 ended")

    first, _ = groups(2, check=check)
    for _ in range(2):  # and every one after it
        with pytest.raises(error, match="process 1 ended"):
            all_reduce(np.ones(3, np.float32), group=first)
