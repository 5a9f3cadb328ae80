"""The frequencies of rotary position embeddings: how fast each pair of dims turns, in float64."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinyllm.spec.rope import RopeScaling


@lru_cache(maxsize=64)
def inverse_frequencies(dims: int, base: float = 10000.0, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians per position of each of the `dims / 2` pairs: float64, read-only."""
    plain = float(base) ** -(np.arange(0, dims, 2) / dims)
    kind = scaling.kind if scaling else "default"
    if scaling is None or kind == "default":
        frequencies = plain
    elif kind == "linear":
        frequencies = plain / scaling.factor
    elif kind == "llama3":
        frequencies = _mix(plain, scaling, _llama3_kept(plain, scaling))
    else:
        frequencies = _mix(plain, scaling, _yarn_kept(dims, base, scaling))
    frequencies.flags.writeable = False
    return frequencies


def attention_factor(scaling: RopeScaling | None) -> float:
    """What YaRN multiplies cos and sin by; 1 for every other kind."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _temperature(scaling.factor, scaling.mscale) / _temperature(scaling.factor, scaling.mscale_all_dim)
    return _temperature(scaling.factor, 1.0)


def _mix(plain: np.ndarray, scaling: RopeScaling, kept: np.ndarray) -> np.ndarray:
    """Frequencies of which the share `kept` stays as it was and the rest is divided by the factor."""
    mixed: np.ndarray = plain * kept + plain / scaling.factor * (1 - kept)
    return mixed


def _llama3_kept(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    turns = (scaling.original_max_position or 0) * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if low == high:
        return np.where(turns >= low, 1.0, 0.0)
    return np.clip((turns - low) / (high - low), 0, 1)


def _yarn_kept(dims: int, base: float, scaling: RopeScaling) -> np.ndarray:
    def dim_that_turns(times: float) -> float:
        return dims * math.log((scaling.original_max_position or 0) / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = dim_that_turns(scaling.beta_fast), dim_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    width = high - low or 0.001  # a step instead of a ramp, as transformers has it
    kept: np.ndarray = 1 - np.clip((np.arange(dims // 2) - low) / width, 0, 1)
    return kept


def _temperature(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
