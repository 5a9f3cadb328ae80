"""The frequencies of rotary position embeddings: how fast each pair of dims turns, in float64.

Pair i of `dims / 2` turns by `f_i = base^(-2i / dims)` radians per position (Su et al. 2021, arXiv:2104.09864). Over
the C positions of the texts that a model was trained on (`original_max_position`) it makes `r_i = C f_i / (2 pi)`
turns. A scaling by the factor s makes room for texts s times as long. Pairs that turn many times have met every angle
in training and stay as they are; pairs that do not finish a turn are slowed down by s; between them the share k_i of
the frequency that stays falls from 1 to 0:

    f_i' = k_i f_i + (1 - k_i) f_i / s

Two kinds go by the length n of the sequence that a position is in. "longrope" divides each frequency by a number of its
own, of one set where n <= C, of another where n is more. "dynamic" takes for the base b, where n > C,

    b' = b g^(dims / (dims - 2)), g = s n / C - (s - 1),    which is f_i' = f_i g^(-2i / (dims - 2)):

the fastest pair stays, the slowest is divided by g.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tinyllm.errors import invalid
from tinyllm.spec.rope import RopeScaling


@lru_cache(maxsize=64)
def inverse_frequencies(
    dims: int, base: float = 10000.0, scaling: RopeScaling | None = None, length: int | None = None
) -> np.ndarray:
    """The frequencies `[dims / 2]` in radians per position, float64 and read-only.

    length: of the sequence, for the scalings that go by it.
    Raises `InvalidInputError` where such a scaling is given without one, or has not a factor for each pair.
    """
    unscaled = float(base) ** -(np.arange(0, dims, 2) / dims)
    if scaling is None or scaling.kind == "default":
        frequencies = unscaled
    elif scaling.kind == "linear":  # k_i = 0 for all pairs: Chen et al. 2023, arXiv:2306.15595
        frequencies = unscaled / scaling.factor
    elif scaling.kind == "proportional":
        turning = np.arange(dims // 2) < int(scaling.partial_rotary_factor * dims // 2)
        frequencies = np.where(turning, unscaled / scaling.factor, 0.0)
    elif scaling.kind == "longrope":
        factors = scaling.long_factor if _is_long(scaling, length) else scaling.short_factor
        if len(factors) != len(unscaled):
            raise invalid("rope", "scaling.short_factor", f"{len(unscaled)} numbers for {dims} dims", len(factors))
        frequencies = unscaled / np.asarray(factors)
    elif scaling.kind == "dynamic":
        frequencies = unscaled
        if _is_long(scaling, length):
            frequencies = unscaled * _growth(scaling, length) ** growth_exponents(dims)
    else:
        share = _llama3_share(unscaled, scaling) if scaling.kind == "llama3" else _yarn_share(dims, base, scaling)
        frequencies = unscaled * share + unscaled / scaling.factor * (1 - share)
    frequencies.flags.writeable = False
    return frequencies


def attention_factor(scaling: RopeScaling | None, length: int | None = None) -> float:
    """The number that cos and sin are multiplied by: 1, but for YaRN and longrope.

    YaRN divides the scores of attention by a temperature t with `sqrt(1 / t) = 0.1 ln(s) + 1` (arXiv:2309.00071,
    section 3.4). Multiplying cos and sin by that root does it, since queries and keys both have it. Where a checkpoint
    has DeepSeek's `mscale` and `mscale_all_dim`, it is the quotient of `0.1 m ln(s) + 1` for the two of them.
    longrope's is `sqrt(1 + ln(s) / ln(C))` (arXiv:2402.13753), or one for short sequences and one for long ones.

    length: of the sequence, where the factor goes by it.
    """
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind == "longrope":
        if scaling.short_mscale is not None and scaling.long_mscale is not None:
            return scaling.long_mscale if _is_long(scaling, length) else scaling.short_mscale
        stretched = scaling.factor > 1
        return math.sqrt(1 + math.log(scaling.factor) / math.log(_original(scaling))) if stretched else 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        return _yarn_mscale(scaling.factor, scaling.mscale) / _yarn_mscale(scaling.factor, scaling.mscale_all_dim)
    return _yarn_mscale(scaling.factor, 1.0)


def frequencies_by_length(
    xp: Any, lengths: Any, constant: Callable[[np.ndarray], Any], dims: int, base: float, scaling: RopeScaling
) -> tuple[Any, Any]:
    """What `inverse_frequencies` and `attention_factor` are for each of `lengths`: frequencies `[*P, dims / 2]` and
    factors, a number or `[*P, 1]`, of a scaling that goes by length.

    xp: the array library, which has `where`. lengths: its array `[*P]`, of the dtype of the result.
    constant: makes an array of that dtype.
    """
    original = _original(scaling)
    is_long = (lengths > original)[..., None]
    short, long = (inverse_frequencies(dims, base, scaling, length) for length in (original, original + 1))
    if scaling.kind == "longrope":
        factors = [attention_factor(scaling, length) for length in (original, original + 1)]
        several = factors[0] != factors[1]
        of_short, of_long = (constant(np.asarray([factor])) for factor in factors)
        factor = xp.where(is_long, of_long, of_short) if several else factors[0]
        return xp.where(is_long, constant(long), constant(short)), factor
    growth = _growth(scaling, lengths)[..., None]
    growth = xp.where(is_long, growth, 0 * growth + 1)
    return constant(short) * growth ** constant(growth_exponents(dims)), 1.0


def growth_exponents(dims: int) -> np.ndarray:
    """The powers `[dims / 2]` of g by which "dynamic" changes frequencies, `-2i / (dims - 2)`; one pair alone never
    changes."""
    exponents: np.ndarray = -np.arange(0, dims, 2) / max(dims - 2, 1)
    return exponents


def _original(scaling: RopeScaling) -> int:
    if scaling.original_max_position is None:
        raise invalid("rope", "scaling.original_max_position", f"a positive integer for {scaling.kind}", None)
    return scaling.original_max_position


def _is_long(scaling: RopeScaling, length: int | None) -> bool:
    if length is None:
        raise invalid("rope", "length", f"the length of the sequence for scaling {scaling.kind!r}", None)
    return length > _original(scaling)


def _growth(scaling: RopeScaling, lengths: Any) -> Any:
    """`s n / C - (s - 1)`, which is 1 where n is C."""
    return (lengths / _original(scaling) - 1) * scaling.factor + 1


def _llama3_share(unscaled: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """`k_i = (r_i - low) / (high - low)`, cut off at 0 and 1; low and high are in turns.

    Source: `apply_scaling` in Meta's code of Llama 3.1, which writes the same with wavelengths `C / r_i`, in positions.
    """
    turns = (scaling.original_max_position or 0) * unscaled / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if low == high:
        return np.where(turns >= low, 1.0, 0.0)
    return np.clip((turns - low) / (high - low), 0, 1)


def _yarn_share(dims: int, base: float, scaling: RopeScaling) -> np.ndarray:
    """`k_i = 1 - (i - low) / (high - low)`, cut off at 0 and 1, where the pairs low and high make `beta_fast` and
    `beta_slow` turns.

    Source: "NTK-by-parts", arXiv:2309.00071, section 3.2. The paper has a ramp over turns; its authors' code has this
    one over pairs, and so have transformers and the checkpoints made with them.
    """

    def pair_of(turns: float) -> float:
        """The i, not a whole number, at which r_i is `turns`: `C base^(-2i / dims) / (2 pi) = turns` solved for i."""
        return dims * math.log((scaling.original_max_position or 0) / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    width = high - low or 0.001  # a step in place of a ramp, as transformers has it
    share: np.ndarray = 1 - np.clip((np.arange(dims // 2) - low) / width, 0, 1)
    return share


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
