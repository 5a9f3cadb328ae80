"""The library of this processor's level, loaded once, and how it is called."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tinyllm_native import records
from tinyllm_native.find import open_library
from tinyllm_native.threads import thread_count


@cache
def library() -> Any:
    """The shared library, loaded.

    Raises:
        BackendUnavailableError: there is none, or it was built from other sources.
    """
    loaded = open_library()
    records.declare(loaded)
    return loaded


def run(
    op: str,
    arrays: Sequence[np.ndarray | ctypes.Structure | int | None],
    sizes: Sequence[int],
    numbers: Sequence[float] = (),
) -> None:
    """Run one call of an op.

    Args:
        arrays: in the op's order, None for one that is not given. sizes, numbers: in the op's order.

    Raises:
        MemoryError: there is not enough for its scratch memory.
    """
    one = records.record(op, [-1 if array is None else place for place, array in enumerate(arrays)], sizes, numbers)
    pointers = (ctypes.c_void_p * len(arrays))(*(records.pointer(array) for array in arrays))
    sizes_of_step = (ctypes.c_int64 * 1)(1)
    if library().tinyllm_run(ctypes.byref(one), 1, pointers, len(arrays), None, 0, sizes_of_step, thread_count(), None):
        raise MemoryError(f"{op}: no memory for scratch arrays")
