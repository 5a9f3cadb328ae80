"""linear and embedding.

oneDNN's packed layout reads a float32 weight 1.2 to 2 times faster than `F.linear` does; fbgemm holds it in float16 and
sums in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinyllm.plugins import Call, QuantWeight, UnsupportedError
from tinyllm_torch.quantized import dequantize, signed
from tinyllm_torch.widen import widen

ROWS = 128
"""The number of rows of x that oneDNN chooses its layout for: this one is the best or near it from 1 row on."""


def pack(weight: torch.Tensor, call: Call) -> torch.Tensor:
    """A float32 matrix in oneDNN's layout."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)
    return packed


def pack_float16(weight: torch.Tensor, call: Call) -> Any:
    """A float32 matrix rounded to float16, in fbgemm's layout."""
    largest = float(weight.detach().abs().max())
    if not largest <= torch.finfo(torch.float16).max:
        raise UnsupportedError(
            f"linear: a weight of {largest:g} is beyond float16: do without --fast, or pin another kernel"
        )
    return torch.ops.quantized.linear_prepack_fp16(weight.detach().contiguous(), None)


def as_it_is(weight: Any, call: Call) -> Any:
    """The weight itself. One that was expanded in float32 is rounded to its dtype for `embedding`, which gives that,
    and on a GPU for products as well, which want that of x."""
    rounded = isinstance(weight, torch.Tensor) and (call.op == "embedding" or weight.device.type != "cpu")
    return weight.to(getattr(torch, call.dtype("weight"))) if rounded else weight


def linear_packed(x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x weight^T + bias`, `[*B, N]`, with a weight in oneDNN's layout."""
    if bias is not None and not bias.is_contiguous():  # oneDNN would read a view as if it lay in one piece
        bias = bias.contiguous()
    rows = x.shape[:-1].numel()
    more = -rows % row_step(rows)
    if not more:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    padded = F.pad(x.reshape(rows, -1), (0, 0, 0, more))
    return linear_packed(padded, weight, bias=bias)[:rows].reshape(*x.shape[:-1], -1)


def row_step(rows: int) -> int:
    """Rows go to oneDNN in multiples of this: an eighth of the power of two below.

    It compiles for each number of rows, and it and PyTorch keep a thousand such products, of half a megabyte each. So
    there are 56 numbers up to 512, and 12 % more rows at most.
    """
    return 1 << max(0, rows.bit_length() - 4)


def linear(x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x weight^T + bias`, `[*B, N]`; a 16-bit x may come with a float32 weight, and is then summed in float32."""
    if x.dtype is weight.dtype:
        # of views it would round the product before it adds the bias
        return F.linear(x.contiguous(), weight, None if bias is None else bias.contiguous())
    return F.linear(widen(x), weight, None if bias is None else widen(bias)).to(x.dtype)


def linear_float16(x: torch.Tensor, weight: Any, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x weight^T + bias`, `[*B, N]`, with a weight that fbgemm holds in float16."""
    if x.ndim == 1:
        return linear_float16(x.unsqueeze(0), weight, bias=bias).squeeze(0)
    y: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x, weight)
    return y if bias is None else y.add_(bias)


def embedding(ids: torch.Tensor, weight: torch.Tensor | QuantWeight) -> torch.Tensor:
    """The rows `[*B, D]` that `ids` name; of a quantized table only those are expanded."""
    if isinstance(weight, QuantWeight):
        flat = ids.reshape(-1).long()
        rows = weight.rows(lambda array: signed(array).index_select(0, flat), (len(flat),))
        return dequantize(rows).view(*ids.shape, weight.shape[-1])
    return F.embedding(ids if ids.dtype in (torch.int32, torch.int64) else ids.long(), weight)
