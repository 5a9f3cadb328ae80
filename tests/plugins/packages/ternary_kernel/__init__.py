"""A kernel for ternary weights on numpy, from another author than the scheme's."""

from __future__ import annotations

from tinyllm.plugins import Call, Kernel, hookimpl

tinyllm_spec_version = 4


def supports(call: Call) -> bool | str:
    """float32 activations."""
    return call.dtype("x") == "float32" or "takes float32 activations"


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """Of the same priority as numpy's own: it comes first because it takes the weight as it is."""
    linear, prepare = "ternary_kernel.kernel:linear", "ternary_kernel.kernel:prepare"
    return [Kernel("numpy", "linear", "signs", linear, supports, schemes=("ternary",), prepare=prepare)]
