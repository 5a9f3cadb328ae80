"""A third party's `quantized_linear` for two backends that are not its own, with a packed layout of its own."""

from __future__ import annotations

from tinyllm.plugins import Call, Kernel, hookimpl


def supports(call: Call) -> bool | str:
    """4-bit affine weights and float32 activations."""
    weight = call.inputs["weight"]
    if call.dtype("weight") != "affine" or weight.bits != 4:  # type: ignore[union-attr]
        return "takes 4-bit affine weights"
    return call.dtype("x") == "float32" or "takes float32 activations"


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """Above the priorities of the backends' own kernels."""
    return [
        Kernel(
            backend,
            "quantized_linear",
            "quick",
            f"quick_linear.{backend}_kernel:quantized_linear",
            supports,
            100,
            f"quick_linear.{backend}_kernel:prepare",
        )
        for backend in ("numpy", "torch")
    ]
