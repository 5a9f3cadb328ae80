"""A model, opened and bound: what one process runs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.graph.bind import bind
from tinyllm.graph.graph import Graph
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.passes.pipeline import Stage, layer_ranges, pipeline
from tinyllm.graph.passes.tensor_parallel import tensor_parallel
from tinyllm.graph.program import Program
from tinyllm.graph.weight_share import WeightShare, bytes_by_weight, weight_bytes
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

    def to_json(self) -> dict[str, Any]:
        """The choice as values that JSON has, for another process."""
        return asdict(self) | {"path": str(self.path)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelChoice:
        """The choice that `to_json` gave the values of."""
        return cls(**values | {"path": Path(values["path"])})


@dataclass(frozen=True)
class BoundModel:
    """A checkpoint, its config and its program, and the names of the tensors that no weight is made of."""

    checkpoint: Checkpoint
    config: DecoderConfig
    program: Program
    skipped_tensors: list[str]


@dataclass(frozen=True)
class BoundStage(BoundModel):
    """One of several stages of a model: what it runs of the graph."""

    stage: Stage


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
    model = _Unbound(choice, registry)
    if group is None:
        program = model.bind(model.graph, model.weights, progress)
    else:
        graph, cuts = tensor_parallel(model.graph, group)
        program = model.bind(graph, WeightShare(model.weights, cuts, group), progress)
    return BoundModel(model.opened.checkpoint, model.opened.config, program, model.skipped)


def bind_stage(
    choice: ModelChoice,
    registry: Registry,
    number: int,
    stages: int,
    progress: Callable[[int, int], None] | None = None,
) -> BoundStage:
    """As `bind_model`, of one of several stages, from 0 on: the layers are shared out by the bytes of their weights."""
    model = _Unbound(choice, registry)
    ranges = layer_ranges(model.graph, bytes_by_weight(model.graph, model.weights), stages)
    stage = pipeline(model.graph, ranges)[number]
    program = model.bind(stage.graph, model.weights, progress)
    return BoundStage(model.opened.checkpoint, model.opened.config, program, model.skipped, stage)


class _Unbound:
    """A model that is opened, and its graph."""

    def __init__(self, choice: ModelChoice, registry: Registry) -> None:
        self._choice, self._registry, self._selection = choice, registry, registry.select(choice.backend)
        self.opened = open_model(choice.path, (*FAMILIES, *registry.plugins.families))
        self.graph = model_graph(
            self.opened.config, registry, self._selection, choice.dtype, choice.fast, choice.kv_cache_dtype
        )
        self.weights = self.opened.weights(self.graph.tensors())
        self.skipped = self.weights.check()

    def bind(self, graph: Graph, source: WeightSource, progress: Callable[[int, int], None] | None) -> Program:
        """Bind the graph, or a part of it, to backends."""
        registry = self._registry
        limit = registry.settings["cache_size"].value
        files = PackedFiles(packed_folder(), self.opened.checkpoint.name, limit) if limit else None
        share = None
        if graph is not self.graph:
            share = weight_bytes(graph, source), weight_bytes(self.graph, self.weights)
        with np.errstate(all="ignore"):  # a weight out of its dtype's range shows in the logits, which are looked at
            program = bind(
                graph,
                registry,
                self._selection,
                source,
                fast=self._choice.fast,
                files=files,
                progress=progress,
                whole=self.graph if source is self.weights else None,
            )
        program.report.share = share
        return program
