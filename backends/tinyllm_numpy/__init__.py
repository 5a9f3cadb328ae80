"""The numpy backend: always there, and the plainest to read. What runs a model has kernels, all else is by
reference."""

from __future__ import annotations

from tinyllm.plugins import Backend, BackendPlugin, Call, Kernel, Probe, hookimpl, known_scheme


def _probe() -> Probe:
    return Probe(True, "numpy is a dependency of the core", score=10)


def _load(device: str | None) -> Backend:
    from tinyllm_numpy.backend import NumpyBackend

    return NumpyBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """numpy itself."""
    return [BackendPlugin("numpy", _probe, _load)]


def _dense(call: Call) -> bool | str:
    """What `dense` packs is float32, and packing is worth it only where it is paid once."""
    if not call.bound:
        return "packing at each call costs more than it gives"
    wide = "float64" in (call.attributes.get("dtype"), call.dtype("x") if "x" in call.inputs else None)
    return "packs weights as float32" if wide else known_scheme(call)


def _own(op: str, module: str, *, prepare: str | None = None) -> Kernel:
    return Kernel(
        "numpy", op, "own", f"tinyllm_numpy.{module}:{op}", prepare=f"tinyllm_numpy.{prepare}" if prepare else None
    )


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`own`: plain numpy, without the copies of the reference. `dense`: a quantized weight unpacked once, then BLAS."""
    quantized = [
        kernel
        for op in ("quantized_linear", "quantized_embedding")
        for kernel in (
            Kernel("numpy", op, "dense", f"tinyllm_numpy.quantized:{op}", _dense, 1, "tinyllm_numpy.quantized:prepare"),
            Kernel("numpy", op, "packed", f"tinyllm_numpy.quantized:{op}_packed", known_scheme),
        )
    ]
    return [
        _own("linear", "linear", prepare="linear:prepare"),
        _own("embedding", "linear", prepare="linear:prepare"),
        *(
            _own(op, "pointwise")
            for op in ("add", "swiglu", "rms_norm", "rope_rotate", "split", "split_heads", "merge_heads")
        ),
        *(_own(op, "pages") for op in ("kv_append", "paged_attention")),
        *quantized,
    ]
