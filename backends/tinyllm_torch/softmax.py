"""softmax."""

from __future__ import annotations

import torch

from tinyllm_torch.widen import widen

LONG = 4096
"""Beyond it `torch.softmax` loses digits on a CPU, where each lane adds one number after the other; `sum` does not."""


def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """The weights `exp(x - m) / sum exp(x - m)`, `[*B]`, along an axis, m being the maximum there."""
    wide = widen(x)
    if x.shape[axis] <= LONG:
        return torch.softmax(wide, axis).to(x.dtype)
    weights = torch.exp(wide - wide.amax(axis, keepdim=True))
    return (weights / weights.sum(axis, keepdim=True)).to(x.dtype)
