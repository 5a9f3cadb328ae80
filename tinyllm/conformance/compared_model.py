"""A model whose programs are compared: one graph and one source of weights, bound as often as one likes, and the steps
that all of them run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.model_runner import Chunk, ModelRunner, StepBatch, make_step
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import Graph, Node
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.passes.merge import merge_calls
from tinyllm.graph.program import Program
from tinyllm.graph.weights import read_weight
from tinyllm.models.checkpoints.model_weights import ModelWeights
from tinyllm.models.download.sources import packed_folder
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.model_graph import model_graph
from tinyllm.models.open_model import OpenModel, open_model
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType

PAGE = 64
"""Tokens of a page, on every backend the same: a prompt of some hundred tokens fills several."""


@dataclass(frozen=True)
class ComparedModel:
    """path: of the checkpoint. fast: whether kernels that round activations may be chosen; None: as settings say."""

    path: Path
    registry: Registry
    opened: OpenModel
    graph: Graph
    source: ModelWeights
    fast: bool | None = None

    @property
    def context(self) -> int:
        """Most tokens of a sequence."""
        return self.opened.config.max_position

    @cached_property
    def merged(self) -> Graph:
        """The graph as it is bound."""
        return merge_calls(self.graph, self.source)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Those of the merged graph, by name."""
        return {node.name: node for node in self.merged.nodes}

    def bind(self, selection: Selection) -> Program:
        """A program. Raises as `tinyllm.graph.bind.bind` does."""
        limit = self.registry.settings["cache_size"].value
        files = PackedFiles(packed_folder(), self.opened.checkpoint.name, limit) if limit else None
        with np.errstate(all="ignore"):
            return bind(self.graph, self.registry, selection, self.source, fast=self.fast, files=files)

    def weight(self, name: str, kind: ArrayType | QuantType | None) -> Any:
        """A weight as kernels are given it: a numpy array in the dtype of the graph, or a `QuantWeight`."""
        weight = self.merged.weights[name]
        value = read_weight(weight, kind, self.source)
        return value.astype(numpy_dtype(weight.dtype), copy=False) if isinstance(value, np.ndarray) else value


def open_compared(
    path: Path,
    registry: Registry,
    selection: Selection,
    dtype: str | None = None,
    fast: bool | None = None,
    kv_cache_dtype: str | None = None,
) -> ComparedModel:
    """Open a model; nothing is bound yet.

    Args:
        selection: of the backend whose dtypes the graph has where none are given.

    Raises:
        CheckpointError, ModelNotFoundError: as `open_model` does. InvalidInputError: as `model_graph` does.
    """
    opened = open_model(path, (*FAMILIES, *registry.plugins.families))
    graph = model_graph(opened.config, registry, selection, dtype, fast, kv_cache_dtype)
    source = opened.weights(graph.tensors())
    source.check()
    return ComparedModel(path, registry, opened, graph, source, fast)


def make_steps(ids: Sequence[int], decode: int, rows: int = 1) -> list[StepBatch]:
    """A step of the prompt and one for each of the `decode` tokens that follow it: the last of `ids`.

    rows: of how many tokens of the prompt, from the last, the logits are asked for.
    """
    pages = list(range(-(-len(ids) // PAGE)))
    prompt = len(ids) - decode
    chunks = [Chunk(list(ids[:prompt]), 0, pages, rows)]
    chunks += [Chunk([ids[place]], place, pages) for place in range(prompt, len(ids))]
    return [make_step([chunk], PAGE) for chunk in chunks]


def runner_of(program: Program, steps: Sequence[StepBatch]) -> ModelRunner:
    """What runs these steps, with pages of its own."""
    return ModelRunner(program, steps[0].block_table.shape[1], PAGE)


def run_steps(program: Program, steps: Sequence[StepBatch]) -> list[NDArray[np.float32]]:
    """The logits of each step."""
    runner = runner_of(program, steps)
    return [runner.step(step) for step in steps]
