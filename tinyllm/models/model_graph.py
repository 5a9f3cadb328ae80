"""The graph of a model in the dtypes that suit where it is to run."""

from __future__ import annotations

from tinyllm.errors import invalid
from tinyllm.graph.graph import Graph
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection
from tinyllm.settings.general import KV_CACHE_DTYPES


def model_graph(
    config: DecoderConfig,
    registry: Registry,
    selection: Selection,
    dtype: str | None = None,
    fast: bool | None = None,
    kv_cache_dtype: str | None = None,
) -> Graph:
    """A model's graph, of which nothing is bound or loaded yet.

    Args:
        selection: where it is to run. dtype, fast, kv_cache_dtype: as `load` takes them.

    Raises:
        InvalidInputError: a dtype that the backend does not have. UnknownNameError, BackendUnavailableError.
    """
    main = registry.backend(selection.default or registry.best())
    dtype = dtype or main.compute_dtype
    if dtype not in main.dtypes:
        expected = f"one of {', '.join(sorted(main.dtypes))} on {main.name}:{main.device}"
        raise invalid("load", "dtype", expected, repr(dtype))
    return decoder(config, registry.specs, dtype, _kv_cache_dtype(kv_cache_dtype, fast, selection, registry))


def _kv_cache_dtype(given: str | None, fast: bool | None, selection: Selection, registry: Registry) -> str:
    """The dtype of the cache; empty for that of the model."""
    setting = registry.settings["kv_cache_dtype"]
    dtype = setting.value if given is None else given
    if dtype not in KV_CACHE_DTYPES:
        raise invalid("load", "kv_cache_dtype", f"one of {', '.join(KV_CACHE_DTYPES)}", repr(dtype))
    if dtype != "auto":
        return str(dtype)
    rounds = registry.settings["fast"].value if fast is None else fast
    return registry.backend_for("paged_attention", selection).fast_kv_cache_dtype if rounds else ""
