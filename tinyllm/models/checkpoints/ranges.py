"""The ranges that numbers of a model's files are held to before anything is made of them.

They are far wider than those of any model, and narrow enough that sizes fit 64 bits, frequencies float64, and graphs
are made within seconds. `config.json` and GGUF's metadata, which is brought into its form, go by the same.
"""

from __future__ import annotations

from typing import Any

LARGEST = 2**31 - 1
"""Of sizes and positions, which ops count in int32."""
_SIZE = (1, LARGEST)
_SCALE = (1e-6, 1e6)
_RANGES: dict[str, tuple[float, float]] = {
    "num_hidden_layers": (1, 1000),
    "rms_norm_eps": (1e-30, 1),
    "rope_theta": (1 + 1e-6, 1e18),
    "factor": _SCALE,
    "low_freq_factor": _SCALE,
    "high_freq_factor": _SCALE,
    "beta_fast": _SCALE,
    "beta_slow": _SCALE,
    "attention_factor": _SCALE,
    "mscale": _SCALE,
    "mscale_all_dim": _SCALE,
    "token id": (0, LARGEST),
}


def range_of(field: str) -> tuple[float, float]:
    """Least and most of a number by the name that `config.json` has for it; what is not listed is a size."""
    return _RANGES.get(field, _SIZE)


def integer_problem(field: str, value: Any) -> str:
    """What is expected instead, empty for an integer in the range of its field."""
    low, high = range_of(field)
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return ""
    return f"a positive integer up to {high}" if low == 1 else f"an integer from {low} to {high}"


def number_problem(field: str, value: Any) -> str:
    """What is expected instead, empty for a number in the range of its field."""
    low, high = range_of(field)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return ""  # NaN and infinities are in no range
    return f"a number above 0, from {low:g} to {high:g}"
