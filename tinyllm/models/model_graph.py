"""The graph of a model in the dtypes that suit where it is to run."""

from __future__ import annotations

from tinyllm.errors import invalid
from tinyllm.graph.graph import Graph
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.cache_dtype import cache_dtype
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection


def model_graph(
    config: DecoderConfig,
    registry: Registry,
    selection: Selection,
    dtype: str | None = None,
    fast: bool | None = None,
    kv_cache_dtype: str | None = None,
    where: str = "load",
) -> Graph:
    """A model's graph, of which nothing is bound or loaded yet.

    Args:
        selection: where it is to run. dtype, fast, kv_cache_dtype: as `load` takes them. where: what errors name.

    Raises:
        InvalidInputError: a dtype that the backend does not have. UnknownNameError, BackendUnavailableError.
    """
    main = registry.backend(selection.default or registry.best())
    dtype = dtype or main.compute_dtype
    if dtype not in main.dtypes:
        expected = f"one of {', '.join(sorted(main.dtypes))} on {main.name}:{main.device}"
        raise invalid(where, "dtype", expected, repr(dtype))
    return decoder(config, registry.specs, dtype, cache_dtype(where, kv_cache_dtype, fast, selection, registry))
