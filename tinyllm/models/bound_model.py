"""A model, opened and bound: what one process runs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyllm.graph.bind import bind
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.passes.tensor_parallel import tensor_parallel
from tinyllm.graph.program import Program
from tinyllm.graph.weight_share import WeightShare, weight_bytes
from tinyllm.graph.weights import WeightSource
from tinyllm.models.checkpoints.checkpoint import Checkpoint
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.download.sources import packed_folder
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.model_graph import model_graph
from tinyllm.models.open_model import open_model
from tinyllm.registry.registry import Registry
from tinyllm.spec.communicator import Communicator


@dataclass(frozen=True)
class ModelChoice:
    """A model, and how it is to run: as `load` takes it, the path found."""

    path: Path
    backend: str | None = None
    dtype: str | None = None
    fast: bool | None = None
    kv_cache_dtype: str | None = None


@dataclass(frozen=True)
class BoundModel:
    """A checkpoint, its config and its program, and the names of the tensors that no weight is made of."""

    checkpoint: Checkpoint
    config: DecoderConfig
    program: Program
    skipped_tensors: list[str]


def bind_model(
    choice: ModelChoice,
    registry: Registry,
    group: Communicator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BoundModel:
    """Open a model, and bind it to backends.

    Args:
        group: the processes among which it is shared out; None: this one has all of it. progress: as `load` takes it.

    Raises: as `load` does.
    """
    selection = registry.select(choice.backend)
    opened = open_model(choice.path, (*FAMILIES, *registry.plugins.families))
    graph = model_graph(opened.config, registry, selection, choice.dtype, choice.fast, choice.kv_cache_dtype)
    weights = opened.weights(graph.tensors())
    skipped = weights.check()
    limit = registry.settings["cache_size"].value
    files = PackedFiles(packed_folder(), opened.checkpoint.name, limit) if limit else None
    source: WeightSource = weights
    share = None
    if group is not None:
        whole = weight_bytes(graph, weights)
        graph, cuts = tensor_parallel(graph, group)
        source = WeightShare(weights, cuts, group)
        share = weight_bytes(graph, source), whole
    with np.errstate(all="ignore"):  # a weight out of its dtype's range shows in the logits, which are looked at
        program = bind(graph, registry, selection, source, fast=choice.fast, files=files, progress=progress)
    program.report.share = share
    return BoundModel(opened.checkpoint, opened.config, program, skipped)
