"""softmax."""

from __future__ import annotations

import torch

from tinyllm_torch.widen import widen


def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.softmax(widen(x), axis).to(x.dtype)
