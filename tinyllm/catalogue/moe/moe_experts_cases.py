"""The cases of `moe_experts`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, Draw, constant, normal
from tinyllm.spec.scheme import Scheme

FOUR = Affine(4, 32)


def _chosen(tokens: int, experts: int, top_k: int) -> Draw:
    """Different experts for each token."""

    def make(rng: np.random.Generator) -> Any:
        rows = [rng.permutation(experts)[:top_k] for _ in range(tokens)]
        return np.asarray(rows, np.int32).reshape(tokens, top_k)

    return Draw((tokens, top_k), make)


def _weights(tokens: int, top_k: int) -> Draw:
    return Draw((tokens, top_k), lambda rng: rng.dirichlet(np.ones(top_k), tokens).reshape(tokens, top_k))


def layer(
    tokens: int, experts: int, top_k: int, columns: int, rows: int, scheme: Scheme | None = None, bias: bool = False
) -> dict[str, Draw]:
    """Inputs of a layer: dense, or of a scheme."""

    def stack(n: int, k: int) -> Draw:
        shape = (experts, n, k)
        return normal(*shape, scale=max(k, 1) ** -0.5) if scheme is None else _stack(scheme, shape)

    inputs = {"x": normal(tokens, columns), "experts": _chosen(tokens, experts, top_k)}
    inputs |= {"weights": _weights(tokens, top_k), "gate_proj": stack(rows, columns), "up_proj": stack(rows, columns)}
    inputs |= {"down_proj": stack(columns, rows)}
    if bias:
        inputs |= {"gate_bias": normal(experts, rows), "up_bias": normal(experts, rows)}
        inputs |= {"down_bias": normal(experts, columns)}
    return inputs


def _stack(scheme: Scheme, shape: tuple[int, ...]) -> Draw:
    """A stack of a scheme. Of many experts every eighth is the same: to draw billions of numbers would take minutes."""

    def make(rng: np.random.Generator) -> Any:
        few = (min(shape[0], 8), *shape[1:])
        drawn, parts = scheme.draw(rng, few), scheme.parts(few)
        if few == shape:
            return drawn
        times = np.arange(shape[0]) % few[0]
        arrays = {name: array[times] if parts[name].by_row else array for name, array in drawn.arrays.items()}
        return type(drawn)(scheme, arrays, shape, drawn.dtype)

    return Draw(shape, make)


def case(
    tokens: int,
    experts: int,
    top_k: int,
    columns: int,
    rows: int,
    name: str = "",
    *,
    scheme: Scheme | None = None,
    bias: bool = False,
    tier: str = "smoke",
    stage: str = "",
    **attributes: Any,
) -> Case:
    """A case; its weights are dense, or all of a scheme."""
    words = [f"T{tokens},E{experts},k{top_k},K{columns},N{rows}", *([str(scheme)] if scheme else [])]
    words += ["bias"] if bias else []
    words += [name] if name else []
    inputs = layer(tokens, experts, top_k, columns, rows, scheme, bias)
    return Case(stage + ",".join(words), inputs, attributes, tier, 20 if 0 in (tokens, columns, rows) else None)


CLAMPED: dict[str, Any] = {"limit": 0.8, "alpha": 1.702, "up_offset": 1.0}
"""As gpt-oss has them, but for the limit, which is lower, so that many numbers pass it."""

CASES = (
    case(3, 4, 2, 5, 6),
    case(1, 8, 3, 4, 7),
    case(7, 3, 2, 6, 33, "gelu", activation="gelu_tanh"),
    case(4, 4, 2, 6, 5, "clamped", bias=True, **CLAMPED),
    case(3, 4, 1, 8, 4, "biased", bias=True),
    Case(
        "an expert twice, weights of any sign",
        layer(2, 3, 3, 4, 5) | {"experts": constant([[1, 1, 0], [2, 0, 2]], "int64"),
                                "weights": constant([[0.5, -1.0, 2.0], [0.0, 1.0, 0.25]])},
    ),
    case(0, 4, 2, 5, 6),
    case(2, 3, 2, 4, 0, bias=True),
    case(2, 3, 2, 32, 64, bias=True),
    case(41, 8, 3, 65, 33, tier="full", bias=True),
    case(67, 5, 2, 96, 160, tier="full"),
    case(1, 16, 4, 129, 47, tier="full"),
    case(1, 128, 8, 2048, 768, tier="bench", stage="decode:", scheme=FOUR),
    case(64, 32, 8, 2048, 768, tier="bench", stage="prefill:", scheme=FOUR),
)  # fmt: skip


def of_scheme(scheme: Scheme) -> Iterator[Case]:
    """One stack, and all three: `linear` has the cases that hold an op to the numbers of a scheme."""
    first = scheme.variants()[0]
    size = first.block
    while first.check_parameters((1, size)) is not None or size % 32:
        size += first.block
    one = layer(3, 3, 2, size, 17) | {"gate_proj": _stack(first, (3, 17, size))}
    yield Case(f"T3,E3,k2,K{size},N17,gate_proj {first}", one)
    yield case(19, 3, 2, 2 * size, size, scheme=first, tier="full", bias=True)


_GOOD = layer(2, 3, 2, 4, 5)


def _bad(name: str, match: str, attributes: dict[str, Any] | None = None, **changed: Any) -> BadInput:
    return BadInput(name, _GOOD | changed, attributes or {}, InvalidInputError, f"moe_experts: {match}")


BAD_INPUTS = (
    _bad("an expert too far", "experts: expected numbers from 0 to 2", experts=constant([[0, 3], [0, 1]], "int32")),
    _bad("a negative expert", "experts: expected numbers from 0 to 2", experts=constant([[0, -1], [0, 1]], "int32")),
    _bad("experts as floats", "experts: expected an integer dtype", experts=normal(2, 2)),
    _bad("weights for others", "weights: expected shape", weights=normal(2, 3)),
    _bad("down as up", "down_proj: expected shape", down_proj=normal(3, 5, 4)),
    _bad("no stack", "gate_proj: expected shape", gate_proj=normal(5, 4)),
    _bad("one expert less", "up_proj: expected shape", up_proj=normal(2, 5, 4)),
    _bad("a bias for all", "down_bias: expected shape", down_bias=normal(4)),
    _bad("another activation", "activation: expected one of", {"activation": "relu"}),
    _bad("no limit", "limit: expected None or a finite number above 0", {"limit": 0.0}),
    _bad("alpha with gelu", "alpha: expected 1.0", {"activation": "gelu_tanh", "alpha": 1.702}),
)
