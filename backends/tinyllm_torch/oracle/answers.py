"""The oracle `torch`: our cases, computed by PyTorch's own functions in float64.

What stands where nobody may look is 0 for PyTorch, whose functions would carry a NaN from there into their answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tinyllm.conformance.example import Example, widen
from tinyllm.conformance.oracles.mapped import NotMappedError
from tinyllm.plugins import Affine, Int8, QuantWeight
from tinyllm_torch.oracle import attention, mha, moe, recurrent, rows, weights

MODULES = (rows, attention, mha, weights, moe, recurrent)
"""Each has `ANSWERS`, by op: a function of tensors like the op, on PyTorch's functions; and may have `REASONS`, by op:
a function of an example that says why PyTorch cannot answer it, or nothing."""

ANSWERS: dict[str, Callable[..., Any]] = {op: f for module in MODULES for op, f in module.ANSWERS.items()}
REASONS: dict[str, Callable[[Example], str]] = {
    op: f for module in MODULES for op, f in getattr(module, "REASONS", {}).items()
}
NO_COUNTERPART = {"quantize": "PyTorch's quantizers choose other scales and zero points"}


def reason(example: Example) -> str:
    """Why PyTorch cannot answer this example, or nothing."""
    op = example.spec.name
    if op not in ANSWERS:
        return NO_COUNTERPART.get(op, "PyTorch has no function for it")
    for value in example.inputs.values():
        if isinstance(value, QuantWeight) and not isinstance(value.scheme, (Affine, Int8)):
            return f"PyTorch does not know scheme {value.scheme.name}"
    return REASONS[op](example) if op in REASONS else ""


def answer(example: Example) -> tuple[Any, ...]:
    """PyTorch's outputs as float64 numpy arrays.

    Raises:
        NotMappedError: `reason` says why.
    """
    if why := reason(example):
        raise NotMappedError(why)
    hidden = example.unread
    inputs = {n: np.where(hidden[n], np.zeros((), a.dtype), a) if n in hidden else a for n, a in example.inputs.items()}
    tensors = {name: _tensors(widen(value)) for name, value in inputs.items()}
    result = ANSWERS[example.spec.name](**tensors, **example.attributes)
    return tuple(t.numpy() for t in (result if isinstance(result, tuple) else (result,)))


def _tensors(value: Any) -> Any:
    """numpy as tensors; unsigned words and all other integers as int64, which every function takes."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: _tensors(array) for name, array in value.arrays.items()})
    if not isinstance(value, np.ndarray | np.generic):
        return value
    array = np.asarray(value)
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array.copy())
