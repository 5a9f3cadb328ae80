"""The settings that belong to no command alone: which model, on which backend, by which kernels."""

from __future__ import annotations

from tinyllm.settings.kinds import COUNT, FLAG, TEXT, Bytes, Kind
from tinyllm.settings.known import SettingSpec

KV_CACHE_DTYPES = ("auto", "float32", "float16", "bfloat16")

SETTINGS = (
    SettingSpec(
        "backend",
        TEXT,
        None,
        "backend, `name:device`, or per op or node `linear=torch,*.mlp.*=numpy,*=mlx`; unset: the best available",
    ),
    SettingSpec("kernels", TEXT, "", "pinned kernels, `mlx/sdpa=scratch,torch/linear=fused`"),
    SettingSpec("fast", FLAG, False, "allow kernels that round activations or scales (exact=False)"),
    SettingSpec(
        "kv_cache_dtype",
        Kind(str, choices=KV_CACHE_DTYPES),
        "auto",
        "dtype that keys and values are kept in; auto: the model's, or with `fast` what the backend likes best",
    ),
    SettingSpec(
        "pipeline_token",
        Kind(str, secret=True),
        None,
        "what the stages of --pipeline-parallel show one another; unset: what is drawn where all are on one machine",
    ),
    SettingSpec("model", TEXT, "smollm2", "the model that is used when none is named"),
    SettingSpec("max_tokens", COUNT, 256, "tokens to generate when not said"),
    SettingSpec(
        "cache_size",
        Kind(Bytes, low=0),
        Bytes(20 * 10**9),
        "most bytes of packed weights in the cache folder, or 500MB, 20GB; 0: none are kept",
    ),
    SettingSpec(
        "grammar_seconds",
        Kind(float, low=0.01),
        1.0,
        "processor time that compiling the grammar of a reply may take",
    ),
    SettingSpec("grammar_memory", Kind(Bytes, low=1 << 20), Bytes(64 << 20), "most bytes that this may take, or 64MiB"),
    SettingSpec(
        "grammar_cache",
        Kind(Bytes, low=1 << 20),
        Bytes(96 << 20),
        "most bytes of all compiled grammars, those of running replies included, or 96MiB",
    ),
)
