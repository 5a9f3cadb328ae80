"""The dtype of keys and values in the cache."""

from __future__ import annotations

from tinyllm.errors import invalid
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection
from tinyllm.settings.general import KV_CACHE_DTYPES


def cache_dtype(where: str, given: str | None, fast: bool | None, selection: Selection, registry: Registry) -> str:
    """As an argument or the setting says; empty for that of the model.

    where: begins the error. fast: whether rounding is allowed, None: as the setting says.
    Raises `InvalidInputError` for a dtype that a cache cannot have.
    """
    setting = registry.settings["kv_cache_dtype"]
    dtype = setting.value if given is None else given
    if dtype not in KV_CACHE_DTYPES:
        raise invalid(where, "kv_cache_dtype", f"one of {', '.join(KV_CACHE_DTYPES)}", repr(dtype))
    if dtype != "auto":
        return str(dtype)
    rounds = registry.settings["fast"].value if fast is None else fast
    return registry.backend_for("paged_attention", selection).fast_kv_cache_dtype if rounds else ""
