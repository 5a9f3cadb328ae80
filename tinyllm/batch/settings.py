"""The settings of `tinyllm batch`: its options, and the table `batch` of a file."""

from __future__ import annotations

from tinyllm.settings.kinds import COUNT, Kind
from tinyllm.settings.known import SettingSpec

SETTINGS = (
    SettingSpec("batch.max_running", COUNT, 64, "most replies written at a time"),
    SettingSpec("batch.max_step_tokens", COUNT, 512, "most tokens of one step"),
    SettingSpec("batch.cache_tokens", Kind(int, low=64), 16384, "tokens that the KV cache holds"),
)
