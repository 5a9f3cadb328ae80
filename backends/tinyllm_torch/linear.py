"""linear, and quantized_linear on weights that are dense by now.

oneDNN's packed layout reads a float32 weight 1.2 to 2 times faster than `F.linear` does; fbgemm holds it in float16 and
sums in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinyllm.errors import UnsupportedError
from tinyllm_torch.widen import widen

ROWS = 128
"""The number of rows of x that oneDNN chooses its layout for: this one is the best or near it from 1 row on."""


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A float32 matrix in oneDNN's layout."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)
    return packed


def pack_float16(weight: torch.Tensor) -> Any:
    """A float32 matrix rounded to float16, in fbgemm's layout."""
    largest = float(weight.detach().abs().max())
    if not largest <= torch.finfo(torch.float16).max:
        raise UnsupportedError(
            f"linear: a weight of {largest:g} is beyond float16: do without --fast, or pin another kernel"
        )
    return torch.ops.quantized.linear_prepack_fp16(weight.detach().contiguous(), None)


def prepare(weight: torch.Tensor, uses: tuple[str, ...]) -> torch.Tensor:
    """Packed where only products use it: a table that is looked up too stays as it is, because no layout serves
    both."""
    return pack(weight) if set(uses) == {"linear.weight"} else weight


def prepare_float16(weight: torch.Tensor, uses: tuple[str, ...]) -> Any:
    return pack_float16(weight)


def linear(x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """With a packed weight; with a plain one as `linear_plain`."""
    if not weight.is_mkldnn:
        return linear_plain(x, weight, bias=bias)
    if bias is not None and not bias.is_contiguous():  # oneDNN would read a view as if it lay in one piece
        bias = bias.contiguous()
    rows = x.shape[:-1].numel()
    more = -rows % row_step(rows)
    if not more:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    padded = F.pad(x.reshape(rows, -1), (0, 0, 0, more))
    return linear(padded, weight, bias=bias)[:rows].reshape(*x.shape[:-1], -1)


def row_step(rows: int) -> int:
    """Rows go to oneDNN in multiples of this: an eighth of the power of two below.

    It compiles for each number of rows, and it and PyTorch keep a thousand such products, of half a megabyte each. So
    there are 56 numbers up to 512, and 12 % more rows at most.
    """
    return 1 << max(0, rows.bit_length() - 4)


def linear_plain(x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A 16-bit x may come with a float32 weight."""
    if x.dtype is weight.dtype:
        return F.linear(x, weight, bias)
    return F.linear(widen(x), weight, None if bias is None else widen(bias)).to(x.dtype)


def linear_float16(x: torch.Tensor, weight: Any, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    if x.ndim == 1:
        return linear_float16(x.unsqueeze(0), weight, bias=bias).squeeze(0)
    y: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x, weight)
    return y if bias is None else y.add_(bias)
