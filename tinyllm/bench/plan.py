"""What a model needs on a backend, put together: its graph, what would run it, the bytes of its weights and its cache,
and what its steps move and compute. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyllm.bench.worker import peak_mb
from tinyllm.catalogue.schemes.affine import BITS, Affine
from tinyllm.errors import invalid
from tinyllm.graph.bind import choose
from tinyllm.graph.graph import Graph
from tinyllm.graph.program import page_size
from tinyllm.graph.tools.cost import step_sizes, type_bytes
from tinyllm.graph.tools.fit import Choices, Need
from tinyllm.graph.tools.plan import (
    Held,
    NodeCost,
    Parameters,
    StatedTypes,
    Typed,
    held_weights,
    node_costs,
    parameters,
    quantized,
    state_bytes,
    value_bytes,
)
from tinyllm.graph.weights import stored_type
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.model_graph import model_graph
from tinyllm.models.planned_model import PlannedModel
from tinyllm.plugins.kernel import ANY_SCHEME
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection
from tinyllm.settings.general import KV_CACHE_DTYPES
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import QuantType

CONTEXT, PROMPT = 4096, 512
"""Tokens of a sequence and of a prompt, unless they are given or the model takes fewer."""


@dataclass(frozen=True)
class Wanted:
    """What is planned for.

    Args:
        context: tokens of a sequence, prompt and reply; None: `CONTEXT`, or the most that the model takes. batch:
            sequences at a time. prompt_tokens: tokens that are read in one step.
        scheme: what all matrices are held by; None: as the files say.
        dtype, kv_cache_dtype: as `load` takes them.
    """

    context: int | None = None
    batch: int = 1
    prompt_tokens: int | None = None
    scheme: Affine | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a model needs. weights: by dtype or scheme. prefill: the nodes of a step that reads a prompt; decode: of one
    that adds a token to each sequence, all of which are as long as the context."""

    config: DecoderConfig
    backend: str
    cache_dtype: str
    prompt_tokens: int
    parameters: Parameters
    weights: Mapping[str, Held]
    need: Need
    choices: Choices
    prefill: list[NodeCost]
    decode: list[NodeCost]


def plan_model(model: PlannedModel, registry: Registry, selection: Selection, wanted: Wanted) -> Plan:
    """The plan of a model.

    Raises:
        InvalidInputError: a context longer than the model's, a dtype that the backend does not compute in, groups that
            divide the rows of no matrix.
        UnsupportedError: no kernel for one of its nodes.
    """
    config, specs = model.config, registry.specs
    main = registry.backend(selection.default or registry.best())
    context = _within("context", wanted.context, min(CONTEXT, config.max_position), config.max_position)
    prompt = _within("prompt_tokens", wanted.prompt_tokens, min(PROMPT, context), context)
    graph = model_graph(config, registry, selection, wanted.dtype, None, wanted.kv_cache_dtype, "plan")
    stored = next((state.dtype for state in graph.states.values() if not state.by_sequence), graph.dtype)
    types = model.types(graph)
    held = quantized(graph, specs, types, wanted.scheme) if wanted.scheme else types
    made = {kind.scheme for kind in held.values() if isinstance(kind, QuantType)}
    if wanted.scheme and wanted.scheme not in made:
        raise invalid("plan", "group_size", "one that divides the rows of a matrix", wanted.scheme.group_size)
    merged, bound = choose(graph, registry, selection, StatedTypes(held))
    weights = held_weights(merged, bound)
    reading, adding = step_sizes(prompt, prompt), step_sizes(1, context, wanted.batch)
    by_token, by_sequence = state_bytes(graph.states.values())
    size = sum(kind.bytes for kind in weights.values())
    need = Need(
        weights=size,
        values=max(value_bytes(merged, specs, sizes) for sizes in (reading, adding)),
        process=int(peak_mb() * 1e6),
        by_token=by_token,
        by_sequence=by_sequence,
        page_size=page_size(b.backend for b in bound.values() if b.spec.name in ("kv_append", *_RECURRENT)),
        context=context,
        batch=wanted.batch,
    )
    fewer = {} if not _reads_affine(registry, selection) else _by_bits(graph, registry, types, wanted.scheme)
    narrower = {name: by_token * _itemsize(name) // _itemsize(stored) for name in _narrower(stored)}
    return Plan(
        config=config,
        backend=f"{main.name}:{main.device}",
        cache_dtype=stored,
        prompt_tokens=prompt,
        parameters=parameters(graph),
        weights=weights,
        need=need,
        choices=Choices({bits: n for bits, n in fewer.items() if n < size}, narrower),
        prefill=node_costs(merged, bound, reading),
        decode=node_costs(merged, bound, adding),
    )


_RECURRENT = ("short_conv", "gated_delta")


def _within(name: str, given: int | None, default: int, most: int) -> int:
    if given is not None and not 1 <= given <= most:
        raise invalid("plan", name, f"1 to {most}", given)
    return default if given is None else given


def _reads_affine(registry: Registry, selection: Selection) -> bool:
    """Whether products read affine weights as they are; otherwise fewer bits would save no memory."""
    backend = registry.backend_for("linear", selection).name
    return any({"affine", ANY_SCHEME} & {*kernel.schemes} for kernel in registry.kernels(backend, "linear"))


def _by_bits(graph: Graph, registry: Registry, types: Mapping[str, Typed], scheme: Affine | None) -> dict[int, int]:
    """Bytes of the weights with all matrices of so many bits, in groups as large as those that are planned for."""
    group = (scheme or Affine()).group_size
    found = {}
    for bits in BITS:
        source = StatedTypes(quantized(graph, registry.specs, types, Affine(bits, group)))
        found[bits] = sum(type_bytes(stored_type(graph, name, source, halves=True)) for name in graph.weights)
    return found


def _narrower(dtype: str) -> list[str]:
    """Dtypes that a cache may have with fewer bytes than this one, the widest first."""
    names = [name for name in KV_CACHE_DTYPES if name != "auto" and _itemsize(name) < _itemsize(dtype)]
    return sorted(names, key=lambda name: -_itemsize(name))


def _itemsize(dtype: str) -> int:
    return int(numpy_dtype(dtype).itemsize)
