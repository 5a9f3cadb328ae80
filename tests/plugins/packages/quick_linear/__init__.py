"""A third party's `linear` for two backends that are not its own, with a packed layout of its own."""

from __future__ import annotations

from tinyllm.plugins import Affine, Call, Kernel, QuantType, hookimpl

tinyllm_spec_version = 4


def supports(call: Call) -> bool | str:
    """4-bit affine weights and float32 activations."""
    weight = call.inputs["weight"]
    if not (isinstance(weight, QuantType) and isinstance(weight.scheme, Affine) and weight.scheme.bits == 4):
        return "takes 4-bit affine weights"
    return call.dtype("x") == "float32" or "takes float32 activations"


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """Above the priorities of the backends' own kernels. What is packed for numpy is kept in files."""
    return [
        Kernel(
            backend,
            "linear",
            "quick",
            f"quick_linear.{backend}_kernel:linear",
            supports,
            100,
            f"quick_linear.{backend}_kernel:prepare",
            schemes=("affine",),
            layout=layout,
        )
        for backend, layout in (("numpy", "quick-1"), ("torch", ""))
    ]
