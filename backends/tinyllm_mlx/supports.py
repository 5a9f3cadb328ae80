"""Which calls the kernels on MLX's ready-made operators take. Imports no array library."""

from __future__ import annotations

from tinyllm.plugins import ArrayType, Call, QuantType


def no_empty_axis(call: Call) -> bool | str:
    """The least that all of them ask for."""
    shapes = [given.shape for given in call.inputs.values() if given is not None]
    return all(0 not in shape for shape in shapes) or "zero-length axes"


SHORT = 128
"""On the CPU MLX's sums add one number after the other, and lose more digits in longer rows than the specs allow."""


def _short(call: Call, length: int) -> bool | str:
    if call.device == "cpu" and isinstance(length, int) and length > SHORT:
        return f"on the CPU rows of at most {SHORT}: sums of longer ones are off"
    return no_empty_axis(call)


def softmax(call: Call) -> bool | str:
    """`mx.softmax`."""
    return _short(call, call.shape("x")[call.attributes["axis"]])


def rms_norm(call: Call) -> bool | str:
    """`mx.fast.rms_norm`."""
    return _short(call, call.shape("x")[-1])


def quantized_product(call: Call) -> bool | str:
    """`mx.quantized_matmul`: it ends the process on zero-length axes."""
    weight = call.inputs["weight"]
    if isinstance(weight, QuantType) and weight.scheme.block not in (32, 64, 128):
        return "groups of 32, 64 or 128 only"
    return no_empty_axis(call)


def rotation(call: Call) -> bool | str:
    """`mx.fast.rope`."""
    if call.inputs["offset"] is not None and call.shape("offset"):
        return "an offset for each sequence"
    if call.attributes["scaling"] is not None and call.attributes["scaling"].kind == "yarn":
        return "YaRN's attention factor"
    return no_empty_axis(call)


def attention(call: Call) -> bool | str:
    """`mx.fast.scaled_dot_product_attention`: rows that see nothing give NaN there, so whatever can leave a row empty
    is declined."""
    if no_empty_axis(call) is not True:
        return no_empty_axis(call)
    q, k, v = call.shape("q"), call.shape("k"), call.shape("v")
    if not 3 <= len(q) <= 4 or len(k) != len(q) or len(v) != len(q):
        return "3 or 4 axes only"
    if q[:-3] != k[:-3] or k[:-2] != v[:-2] or q[-3] % k[-3]:
        return "batch axes that broadcast"
    if isinstance(call.inputs["sinks"], ArrayType) and call.dtype("sinks") != call.dtype("q"):
        return "sinks of another dtype"
    if call.attributes["causal"] and q[-2] > k[-2]:
        return "rows before the first key"
    return True
