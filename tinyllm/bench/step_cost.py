"""What a step costs beside what its nodes move and compute, measured on decoders that are too small to do either: for
each node, for the step, and for each sequence in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tinyllm.bench.kept_limits import kept_numbers
from tinyllm.graph.tools.plan import TypeInfo
from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, LayerConfig, MlpConfig, RopeConfig
from tinyllm.registry.registry import Registry
from tinyllm.spec.types import ArrayType

if TYPE_CHECKING:
    from tinyllm.graph.program import Program
    from tinyllm.models.text.tokenizer import Tokenizer

SHALLOW, DEEP = 2, 26
"""Layers."""
FEW, MANY = 1, 8
"""Sequences at a time."""
TOKENS = 24
"""Steps that are timed; their median counts."""
LEAST = 1e-9
"""Seconds: what is faster than the clock still takes some."""
_VOCABULARY, _HIDDEN, _HEAD = 32768, 32, 16


@dataclass(frozen=True)
class StepCost:
    """Seconds: of each node that is a call, of a step, and of each sequence in a step, whose token is chosen."""

    node: float
    step: float
    sequence: float

    def seconds(self, nodes: int, sequences: int) -> float:
        """Of a step of so many nodes and sequences."""
        return self.step + self.node * nodes + self.sequence * sequences


def kept_step_cost(
    registry: Registry, backend: str, *, anew: bool = False, on_step: Callable[[str], None] = lambda what: None
) -> StepCost:
    """That of a backend; measured once, and kept as `kept_limits` is."""

    def measure() -> dict[str, float]:
        on_step(f"{backend}: measuring what a step costs")
        return asdict(measure_step_cost(registry, backend))

    return StepCost(**kept_numbers(registry, backend, "step", {"node", "step", "sequence"}, measure, anew))


def measure_step_cost(registry: Registry, backend: str) -> StepCost:
    """By three engines: of few layers, of many, and of few with many sequences."""
    shallow, deep = _program(registry, backend, SHALLOW), _program(registry, backend, DEEP)
    nodes = _nodes(shallow)
    short, long, wide = _seconds(shallow, FEW), _seconds(deep, FEW), _seconds(shallow, MANY)
    node = max(LEAST, (long - short) / (_nodes(deep) - nodes))
    sequence = max(LEAST, (wide - short) / (MANY - FEW))
    return StepCost(node, max(LEAST, short - nodes * node - FEW * sequence), sequence)


class _Zeros:
    """Weights of zeros."""

    identity = ""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def info(self, name: str) -> TypeInfo:
        return TypeInfo(ArrayType(self.shapes[name], "float32"))

    def read(self, name: str) -> Any:
        return np.zeros(self.shapes[name], np.float32)

    def release(self) -> None:
        """They are in memory."""


class _Silent:
    """A tokenizer whose tokens have no text."""

    def stream(self, skip_special_tokens: bool = True) -> Any:
        from tinyllm.models.text.token_text import TextStream

        return TextStream(lambda token: b"", ())


def _program(registry: Registry, backend: str, layers: int) -> Program:
    from tinyllm.graph.bind import bind
    from tinyllm.models.decoder.decoder import decoder

    attention = AttentionConfig(2, 2, _HEAD, RopeConfig(_HEAD))
    config = DecoderConfig("llama", _VOCABULARY, _HIDDEN, 128, (LayerConfig(attention, MlpConfig(_HIDDEN)),) * layers)
    graph = decoder(config, registry.specs, registry.backend(backend).compute_dtype)
    return bind(graph, registry, registry.select(backend), _Zeros(graph.tensors()), fast=False)


def _nodes(program: Program) -> int:
    """How many there are in a step."""
    return sum(len(step.run.nodes) if step.run else 1 for step in program.steps)


def _seconds(program: Program, sequences: int) -> float:
    """The median time of a step of the engine in which each sequence gets a token."""
    from tinyllm.engine.engine import Engine
    from tinyllm.engine.model_runner import ModelRunner
    from tinyllm.engine.sampling.params import SamplingParams
    from tinyllm.engine.sequence import Sequence

    engine = Engine(ModelRunner(program), pages=2 * sequences + 1, page_size=64, max_running=sequences)
    params = SamplingParams(max_tokens=TOKENS + 4, ignore_eos=True)
    silent = cast("Tokenizer", _Silent())
    engine.add("", [Sequence([1, 2, 3], params, silent, frozenset(), 128) for _ in range(sequences)])
    times = []
    while engine.has_work:
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    return median(times[2:-1])
