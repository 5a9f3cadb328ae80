"""The sampling settings in a GGUF's metadata, `general.sampling.*`, in the terms of `generation_config.json`, and back.

Source: llama.cpp, which takes them as defaults of its own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyllm.models.checkpoints.gguf import GgufFile

_FLOAT32_MAX = float(np.finfo(np.float32).max)
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


def from_generation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of the settings that GGUF has names for."""
    asked = {ours: config[theirs] for ours, theirs in _NAMES.items() if config.get(theirs) is not None}
    if config.get("do_sample") is False:  # whatever else it says, the likeliest token is taken
        asked["temp"] = 0
    return {_PREFIX + key: int(value) if key == "top_k" else float(value) for key, value in asked.items()}


def _shortest(value: Any) -> Any:
    """A number that the file keeps as float32 (0.699999988) as it was written (0.7)."""
    if not isinstance(value, float) or abs(value) > _FLOAT32_MAX:
        return value
    return float(str(np.float32(value)))
