"""The numpy backend: always there, and the plainest to read. What runs a model has kernels, all else is by
reference."""

from __future__ import annotations

from tinyllm.plugins import ANY_SCHEME, DENSE, EVERY_CPU, Backend, BackendPlugin, Kernel, Probe, hookimpl


def _probe() -> Probe:
    return Probe(True, "numpy is a dependency of the core", score=10)


def _load(device: str | None) -> Backend:
    from tinyllm_numpy.backend import NumpyBackend

    return NumpyBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """numpy itself."""
    return [BackendPlugin("numpy", _probe, _load)]


def _own(op: str, module: str, *, prepare: str | None = None, host: tuple[str, ...] = ()) -> Kernel:
    prepare = f"tinyllm_numpy.{prepare}" if prepare else None
    return Kernel("numpy", op, "own", f"tinyllm_numpy.{module}:{op}", prepare=prepare, host=host, spec_version=4)


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`own`: plain numpy, without the copies of the reference. `rows` looks up quantized tables, `formula` expands
    weights of any scheme and `by_group` sums over processes, on every CPU."""
    elements = ("add", "mul", "scale", "softcap", "sigmoid", "swiglu", "geglu")
    rows = ("rms_norm", "layer_norm", "rope_rotate", "split", "split_heads", "merge_heads")
    return [
        _own("linear", "linear", prepare="linear:prepare"),
        _own("embedding", "linear", prepare="linear:prepare"),
        *(_own(op, "elements") for op in elements),
        *(_own(op, "rows") for op in rows),
        _own("moe_router", "moe"),
        *(_own(op, "recurrent", host=("q_start", "kv_len", "state_rows")) for op in ("short_conv", "gated_delta")),
        _own("kv_append", "paged_attention", host=("slots",)),
        _own("paged_attention", "paged_attention", host=("q_start", "kv_len", "block_table")),
        Kernel(
            EVERY_CPU,
            "embedding",
            "rows",
            "tinyllm_numpy.linear:embedding_of_quantized",
            arrays="host",
            host=("ids",),
            schemes=(ANY_SCHEME,),
            spec_version=4,
        ),
        Kernel(
            EVERY_CPU,
            "moe_experts",
            "by_expert",
            "tinyllm_numpy.moe:moe_experts",
            priority=-2,  # before a stack is expanded as a whole, after kernels that read its scheme
            arrays="host",
            host=("experts",),
            schemes=(DENSE, ANY_SCHEME),
            spec_version=4,
        ),
        Kernel(
            EVERY_CPU,
            "all_reduce",
            "by_group",
            "tinyllm_numpy.parallel:all_reduce",
            arrays="host",
            traceable=False,  # other processes are waited for
            spec_version=4,
        ),
        Kernel(
            EVERY_CPU,
            "dequantize",
            "formula",
            "tinyllm_numpy.linear:dequantize",
            priority=-10,  # kernels of the backend come first
            arrays="host",
            schemes=(ANY_SCHEME,),
            spec_version=4,
        ),
    ]
