"""A model of two stages, the second of which is a thread here."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm.families.harness import PROMPT, Tiny
from tests.parallel.test_ranks import SIZES
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.program import Pages, Program
from tinyllm.models.bound_model import BoundStage, ModelChoice, bind_stage
from tinyllm.parallel import stage_process
from tinyllm.parallel.pipeline import bind_in_stages
from tinyllm.parallel.stages import Stages
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import read_settings

FOUR = {"num_hidden_layers": 4}
LLAMA = Tiny("Llama", SIZES | FOUR)


def others(program: Any) -> Stages:
    """The stages after this one."""
    found: Stages = program._tell.__self__
    return found


def step(program: Program) -> np.ndarray:
    """Logits of some tokens."""
    return ModelRunner(program, 2, 16).step(make_step([Chunk(PROMPT[:20], 0, [1, 0], 20)], 16))


class Changed(Program):
    """A program before whose steps something happens."""

    def __init__(self, own: Program, happens: Callable[[], object]) -> None:
        vars(self).update(vars(own))
        self._happens = happens

    def __call__(self, *arguments: Any, **options: Any) -> tuple[list[np.ndarray], Pages]:
        """As the program's own, afterwards."""
        self._happens()
        return super().__call__(*arguments, **options)


def environments(stages: int) -> list[dict[str, str]]:
    """What a launcher says to each process, at a port after which there is a free one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1] - 1
    shared = {"WORLD_SIZE": str(stages), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [shared | {"RANK": str(rank)} for rank in range(stages)]


@contextmanager
def in_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], dtype: str | None = None
) -> Iterator[Program]:
    """A model of two stages that were started by a launcher, the second of which is a thread here. dtype: as the second
    one is asked for it."""
    registry = Registry(settings=read_settings(environ={"TINYLLM_PIPELINE_TOKEN": "a text that nobody guesses"}))

    def changed(*arguments: Any) -> BoundStage:
        bound = bind_stage(*arguments)
        return BoundStage(**vars(bound) | {"program": Changed(bound.program, happens)})

    monkeypatch.setattr(stage_process, "bind_stage", changed)
    choice, other, ended = ModelChoice(folder, "native"), ModelChoice(folder, "native", dtype), list[object]()
    first, second = environments(2)

    def follow() -> None:
        try:
            bind_in_stages(other, registry, 2, patience=1.0, environment=second)
        except SystemExit as end:
            ended.append(end.code)

    thread = threading.Thread(target=follow)
    thread.start()
    bound = bind_in_stages(choice, registry, 2, patience=1.0, environment=first)
    try:
        yield bound.program
    finally:
        others(bound.program).close()
        thread.join(10)
    assert ended == [0]
