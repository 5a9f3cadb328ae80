"""The settings of `tinyllm bench`: the table `bench` of a file."""

from __future__ import annotations

from tinyllm.settings.kinds import TEXT
from tinyllm.settings.known import SettingSpec

SETTINGS = (
    SettingSpec(
        "bench.llama_cpp",
        TEXT,
        "",
        "libllama that `bench model --against llama.cpp` measures; unset: the one of llama-cpp-python",
        own_variable="TINYLLM_LLAMA_CPP",
    ),
)
