"""Which calls the kernels on PyTorch's special operators take. Imports torch only when asked, by then it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tinyllm.plugins import Call, known_scheme

Check = Callable[[Call], bool | str]


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
    if not call.bound:
        return "packing at each call costs more than it gives"
    if call.device != "cpu":
        return "for the CPU only"
    if call.dtype("x") != "float32":
        return "for float32 only"
    if 0 in call.shape("weight"):
        return "zero-length axes"
    return known_scheme(call)


def packed(call: Call) -> bool | str:
    """oneDNN's packed product."""
    return _float32_on_cpu(call) if _has_mkldnn() else "this torch has no oneDNN"


def float16(call: Call) -> bool | str:
    """fbgemm's product with a float16 weight."""
    return _float32_on_cpu(call) if _has_fbgemm() else "torch's quantized engine is neither x86 nor fbgemm"


def dense(dtype: str) -> Check:
    """A quantized weight held as a matrix of `dtype`. On a CPU float32 serves 16-bit x too: products are faster and
    better."""

    def check(call: Call) -> bool | str:
        if not call.bound:
            return "keeps the matrix, which pays in a program only"
        given = call.dtype("x")
        wanted = "float32" if call.device == "cpu" and given in ("float16", "bfloat16") else given
        return known_scheme(call) if wanted == dtype else f"for {dtype} only"

    return check


def fused(call: Call) -> bool | str:
    """`F.scaled_dot_product_attention`."""
    for name in ("softcap", "sinks"):
        if call.attributes.get(name) is not None or call.inputs.get(name) is not None:
            return name
    q, k, v = call.shape("q"), call.shape("k"), call.shape("v")
    if 0 in (*q, *k, *v):
        return "zero-length axes"
    heads = 2 if call.op == "sdpa" else 3
    if q[:-heads] != k[:-heads] or k[:-2] != v[:-2]:
        return "leading axes that broadcast"
    return True
