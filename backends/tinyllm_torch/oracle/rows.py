"""Elementary ops, rotations and views by PyTorch's functions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinyllm.conformance.example import Example


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, offset: float = 0.0) -> Any:
    """F.rms_norm."""
    return F.rms_norm(x, tuple(weight.shape), weight + offset, eps)


def swiglu(gate: Any, up: Any, *, limit: float | None = None, alpha: float = 1.0, up_offset: float = 0.0) -> Any:
    """F.silu, which has no factor inside: it is taken out again."""
    if limit is not None:
        gate, up = torch.clamp(gate, max=limit), torch.clamp(up, min=-limit, max=limit)
    return F.silu(alpha * gate) / alpha * torch.add(up, up_offset)


def rope_angles(
    positions: Any,
    *,
    inv_freq: Any = None,
    dims: int | None = None,
    base: float = 10000.0,
    position_scale: float = 1.0,
    log_scale: float = 0.0,
    log_period: int | None = None,
    **_: Any,
) -> Any:
    """Real and imaginary part of torch.polar."""
    turns = _turns(positions, inv_freq, dims, base, position_scale)
    if log_period is not None:
        turns = turns * (1 + log_scale * torch.log1p(torch.relu(positions.long() // log_period).double()))[..., None]
    return turns.real.contiguous(), turns.imag.contiguous()


def rope_rotate(x: Any, cos: Any, sin: Any, *, traditional: bool = False) -> Any:
    """Pairs as complex numbers, multiplied by cos + i sin."""
    return _rotate(x, torch.complex(cos, sin), traditional)


def rope(
    x: Any,
    *,
    offset: Any = None,
    positions: Any = None,
    inv_freq: Any = None,
    dims: int | None = None,
    base: float = 10000.0,
    traditional: bool = False,
    position_scale: float = 1.0,
    **_: Any,
) -> Any:
    """The same, the angles by torch.polar."""
    if positions is None:
        positions = torch.arange(x.shape[-2]) + (0 if offset is None else offset[..., None])
    turns = _turns(positions, inv_freq, x.shape[-1] if dims is None else dims, base, position_scale)
    return _rotate(x, turns if turns.ndim == 2 else turns.unflatten(0, (-1, *(1,) * (x.ndim - 3))), traditional)


def _turns(positions: Any, inv_freq: Any, dims: Any, base: float, position_scale: float) -> Any:
    if inv_freq is None:
        inv_freq = torch.pow(
            torch.tensor(base, dtype=torch.float64), -torch.arange(0, dims, 2, dtype=torch.float64) / dims
        )
    angles = positions.double()[..., None] * position_scale * inv_freq
    return torch.polar(torch.ones_like(angles), angles)


def _rotate(x: Any, turns: Any, traditional: bool) -> Any:
    pairs = turns.shape[-1]
    head, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    axis = -1 if traditional else -2  # of the two in a pair
    head = head.unflatten(-1, (pairs, 2) if traditional else (2, pairs))
    turned = torch.complex(head.select(axis, 0), head.select(axis, 1)) * turns
    return torch.cat((torch.stack((turned.real, turned.imag), dim=axis).flatten(-2), rest), dim=-1)


def split_heads(x: Any, *, heads: tuple[int, ...]) -> Any:
    """Tensor.unflatten and torch.split."""
    return torch.split(x.unflatten(-1, (sum(heads), x.shape[-1] // sum(heads))), list(heads), dim=-2)


def scaled(example: Example) -> str:
    """Why the frequencies of `scaling` or `rope` are not PyTorch's business, or nothing."""
    rope = example.attributes.get("rope")
    scaling = example.attributes.get("scaling") if rope is None else rope.scaling
    if scaling is None or scaling.kind == "default":
        return ""
    return f"PyTorch has no rotary embeddings of scaling {scaling.kind!r}"


ANSWERS = {
    "softmax": lambda x, axis=-1: F.softmax(x, axis),
    "silu": lambda x: F.silu(x),
    "gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
    "sigmoid": lambda x: torch.sigmoid(x),
    "swiglu": swiglu,
    "geglu": lambda gate, up, approximate="tanh": F.gelu(gate, approximate=approximate) * up,
    "add": lambda x, y: torch.add(x, y),
    "mul": lambda x, y: torch.mul(x, y),
    "scale": lambda x, factor: torch.mul(x, factor),
    "softcap": lambda x, cap: torch.tanh(torch.div(x, cap)) * cap,
    "rms_norm": rms_norm,
    "layer_norm": lambda x, weight, bias=None, eps=1e-5: F.layer_norm(x, weight.shape, weight, bias, eps),
    "rope_angles": rope_angles,
    "rope_rotate": rope_rotate,
    "rope": rope,
    "split": lambda x, sizes, axis=-1: torch.split(x, list(sizes), dim=axis),
    "split_heads": split_heads,
    "merge_heads": lambda x: x.flatten(-2),
}
REASONS = {"rope": scaled, "rope_angles": scaled}
