"""Which calls the kernels on PyTorch's special operators take, beyond what their signatures and schemes say.

Imports torch only when asked, by then it is loaded.
"""

from __future__ import annotations

from functools import cache

from tinyllm.plugins import Call


@cache
def _has_mkldnn() -> bool:
    import torch

    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _has_fbgemm() -> bool:
    import torch

    return torch.backends.quantized.engine in ("x86", "fbgemm") and hasattr(torch.ops.quantized, "linear_dynamic_fp16")


def _float32_on_cpu(call: Call) -> bool | str:
    if not call.weights_packed:
        return "packing at each call costs more than it gives"
    if call.device != "cpu":
        return "for the CPU only"
    if call.dtype("x") != "float32":
        return "for float32 only"
    return 0 not in call.shape("weight") or "zero-length axes"


def packed(call: Call) -> bool | str:
    """oneDNN's packed product."""
    if call.shared:
        return "other ops read the weight as it is: no layout serves both"
    return _float32_on_cpu(call) if _has_mkldnn() else "this torch has no oneDNN"


def float16(call: Call) -> bool | str:
    """fbgemm's product with a float16 weight."""
    return _float32_on_cpu(call) if _has_fbgemm() else "torch's quantized engine is neither x86 nor fbgemm"


def fused(call: Call) -> bool | str:
    """`F.scaled_dot_product_attention`."""
    q, k, v = call.shape("q"), call.shape("k"), call.shape("v")
    if 0 in (*q, *k, *v):
        return "zero-length axes"
    heads = 2 if call.op == "sdpa" else 3
    return (q[:-heads] == k[:-heads] and k[:-2] == v[:-2]) or "leading axes that broadcast"
