"""`jitted`: a kernel that XLA compiles whole, once for each set of shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

from tinyllm.plugins import QuantWeight

SMALL = 2**14
HASTE = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}

jax.tree_util.register_pytree_node(  # so that a quantized weight goes into compiled functions as its arrays
    QuantWeight,
    lambda weight: (tuple(weight.arrays.values()), (weight.scheme, tuple(weight.arrays), weight.shape, weight.dtype)),
    lambda form, arrays: QuantWeight(form[0], dict(zip(form[1], arrays, strict=True)), *form[2:]),
)


def jitted(*static: str, consumes: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled anew for other values of the arguments `static`; may write to those that it consumes.

    On small arrays compiling costs far more than computing, so for them it is done in haste (20 ms and not 100).
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        common: dict[str, Any] = {"static_argnames": static, "donate_argnames": consumes}
        thorough = jax.jit(function, **common)
        hasty = jax.jit(function, **common, compiler_options=HASTE) if jax.default_backend() == "cpu" else thorough

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            arrays = [leaf for leaf in jax.tree.leaves((args, kwargs)) if hasattr(leaf, "size")]
            if any(isinstance(array, jax.core.Tracer) for array in arrays):
                return function(*args, **kwargs)  # a part of a larger function that is being compiled
            return (hasty if sum(array.size for array in arrays) < SMALL else thorough)(*args, **kwargs)

        return run

    return decorate
