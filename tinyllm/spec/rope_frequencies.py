"""The frequencies of rotary position embeddings: how fast each pair of dims turns, in float64.

Pair i of `dims / 2` turns by `f_i = base^(-2i / dims)` radians per position (Su et al. 2021, arXiv:2104.09864). Over
the C positions of the texts that a model was trained on (`original_max_position`) it makes `r_i = C f_i / (2 pi)`
turns. A scaling by the factor s makes room for texts s times as long. Pairs that turn many times have met every angle
in training and stay as they are; pairs that do not finish a turn are slowed down by s; between them the share k_i of
the frequency that stays falls from 1 to 0:

    f_i' = k_i f_i + (1 - k_i) f_i / s
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinyllm.spec.rope import RopeScaling


@lru_cache(maxsize=64)
def inverse_frequencies(dims: int, base: float = 10000.0, scaling: RopeScaling | None = None) -> np.ndarray:
    """The frequencies `[dims / 2]` in radians per position, float64 and read-only."""
    unscaled = float(base) ** -(np.arange(0, dims, 2) / dims)
    if scaling is None or scaling.kind == "default":
        frequencies = unscaled
    elif scaling.kind == "linear":  # k_i = 0 for all pairs: Chen et al. 2023, arXiv:2306.15595
        frequencies = unscaled / scaling.factor
    else:
        share = _llama3_share(unscaled, scaling) if scaling.kind == "llama3" else _yarn_share(dims, base, scaling)
        frequencies = unscaled * share + unscaled / scaling.factor * (1 - share)
    frequencies.flags.writeable = False
    return frequencies


def attention_factor(scaling: RopeScaling | None) -> float:
    """The number that cos and sin are multiplied by: 1, but for YaRN.

    YaRN divides the scores of attention by a temperature t with `sqrt(1 / t) = 0.1 ln(s) + 1` (arXiv:2309.00071,
    section 3.4). Multiplying cos and sin by that root does it, since queries and keys both have it. Where a checkpoint
    has DeepSeek's `mscale` and `mscale_all_dim`, it is the quotient of `0.1 m ln(s) + 1` for the two of them.
    """
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _yarn_mscale(scaling.factor, scaling.mscale) / _yarn_mscale(scaling.factor, scaling.mscale_all_dim)
    return _yarn_mscale(scaling.factor, 1.0)


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
