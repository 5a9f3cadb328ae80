"""The sampling settings in a GGUF's metadata, `general.sampling.*`, in the terms of `generation_config.json`, and back.

Source: llama.cpp, which takes them as defaults of its own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyllm.errors import CheckpointError, quoted
from tinyllm.models.checkpoints.generation_fields import asked_of
from tinyllm.models.checkpoints.gguf import GgufFile

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT32_MAX = 2**31 - 1
_PREFIX = "general.sampling."
_NAMES = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
# Keys that change nothing at these values, or without what they are about.
_NEUTRAL: dict[str, tuple[Any, ...]] = {"mirostat": (0,), "xtc_probability": (0,), "penalty_last_n": (-1,)}
_ABOUT = {
    "mirostat_tau": "mirostat",
    "mirostat_eta": "mirostat",
    "xtc_threshold": "xtc_probability",
    "penalty_last_n": "penalty_repeat",
}


def to_generation_config(file: GgufFile) -> dict[str, Any]:
    """What the file says of sampling. Keys that `generation_config.json` has no name for keep theirs, except those that
    change nothing."""
    found = {
        key.removeprefix(_PREFIX): _shortest(file.metadata[key]) for key in file.metadata if key.startswith(_PREFIX)
    }
    asked = {key: value for key, value in found.items() if value not in _NEUTRAL.get(key, ())}
    if asked.get("penalty_repeat") == 1 or asked.get("penalty_last_n") == 0:  # no penalty, over however many tokens
        asked = {key: value for key, value in asked.items() if not key.startswith("penalty_")}
    kept = {key: value for key, value in asked.items() if key not in _ABOUT or _ABOUT[key] in asked}
    config = {_NAMES.get(key, _PREFIX + key): value for key, value in kept.items()}
    for key in ("temperature", "top_k"):  # below 0 is as 0 there
        if isinstance(config.get(key), (int, float)):
            config[key] = max(config[key], 0)
    return config


def from_generation_config(
    config: Mapping[str, Any], source: str, context: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says of the settings that GGUF has names for, and those that it has none for.

    Args:
        source: the name of the file that has the settings, for errors. context: of the model.

    Raises `CheckpointError` for a value of another kind than its field's.
    """
    said = {ours: _checked(source, theirs, config[theirs]) for ours, theirs in _NAMES.items() if theirs in config}
    asked = {key: value for key, value in said.items() if value is not None}
    sampled = config.get("do_sample")
    if sampled is not None and not isinstance(sampled, bool):
        raise CheckpointError(f"{source}: do_sample: expected true or false, got {quoted(sampled)}")
    if sampled is not None:  # not to sample is to take the likeliest, whatever else is said; 1 is what is not said
        asked["temp"] = asked.get("temp", 1.0) if sampled else 0.0
    if asked.get("penalty_repeat", 1) != 1:
        asked["penalty_last_n"] = -1  # of all tokens, where llama.cpp takes the last 64
    without = {name: value for name, value in asked_of(config, context).items() if name not in _NAMES.values()}
    return {_PREFIX + key: value for key, value in asked.items()}, without


def _checked(source: str, name: str, value: Any) -> float | int | None:
    """The value of a setting as the file has it."""
    if value is None:
        return None
    whole = name == "top_k"
    most, expected = (_INT32_MAX, "an integer") if whole else (_FLOAT32_MAX, "a number")
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not -most <= value <= most:
        raise CheckpointError(f"{source}: {name}: expected {expected}, got {quoted(value)}")
    return max(value, 0) if whole else float(value)  # below 0 a top_k asks for nothing, as 0 does


def _shortest(value: Any) -> Any:
    """A number that the file keeps as float32 (0.699999988) as it was written (0.7)."""
    if not isinstance(value, float) or abs(value) > _FLOAT32_MAX:
        return value
    return float(str(np.float32(value)))
