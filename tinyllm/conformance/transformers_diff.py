"""A program beside transformers: the hidden states after the embedding, after each layer and after the last norm, and
the logits.

transformers shows no more than these, and nothing of it is held to a reference. So a layer departs where its output is
further from transformers' than rounding explains: `DEPARTS`, of the size of a token's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.conformance.compared_model import ComparedModel, make_steps, runner_of
from tinyllm.conformance.model_diff import layer_of
from tinyllm.errors import TinyllmError, shortened
from tinyllm.graph.observe import Ran
from tinyllm.graph.program import Program
from tinyllm.plugins.backend import on_host

Array = NDArray[np.float64]

DEPARTS = 1e-3
"""The norm of a token's difference, relative to the norm of its numbers. Rounding to float32 comes to some 1e-5."""


@dataclass(frozen=True)
class StateDifference:
    """How far a hidden state is apart.

    what: `embedding`, `layer 3`, `final norm`, `logits`. node: whose output it is. token, place: where the numbers are
    furthest apart; ours, theirs: what both hold there.
    """

    what: str
    node: str
    difference: float
    token: int
    place: int
    ours: float
    theirs: float

    @property
    def departs(self) -> bool:
        """Whether rounding does not explain it."""
        return not self.difference <= DEPARTS


def diff_with_transformers(model: ComparedModel, program: Program, ids: Sequence[int]) -> list[StateDifference]:
    """The differences of a prompt, in the order in which the states are computed.

    Raises:
        TinyllmError: transformers is not installed, or cannot read the checkpoint or show its states.
    """
    _, run = open_theirs("diff", model.path)
    theirs = hidden_states(run(ids))
    mine = our_states(model, program, ids)
    return [_difference(what, *mine[number], theirs[number]) for number, what in state_names(model, theirs).items()]


def state_names(model: ComparedModel, theirs: Mapping[int, Array]) -> dict[int, str]:
    """What the hidden states are called, by their numbers (see `our_states`).

    Raises:
        TinyllmError: transformers has another number of layers.
    """
    count = len(model.opened.config.layers)
    if len(theirs) != count + 2:
        raise TinyllmError(f"transformers: expected states of {count} layers, got {len(theirs) - 2}")
    names = {number: f"layer {number}" for number in range(count - 1)}
    return {-1: "embedding"} | names | {count: "final norm", count + 1: "logits"}


def our_states(model: ComparedModel, program: Program, ids: Sequence[int]) -> dict[int, tuple[str, Array]]:
    """By number the last node of each part and its output `[T, N]`: -1 is the embedding, then come the layers, the last
    norm and the logits."""
    layers, width = len(model.opened.config.layers), model.opened.config.hidden_size
    states: dict[int, tuple[str, Array]] = {}
    last = -1

    def observe(ran: Ran) -> None:
        nonlocal last
        node = ran.node
        if node.asked is None:
            return
        layer = layer_of(node.name)
        last = last if layer is None else layer
        after = layer is None and last == layers - 1
        is_logits = after and node.types[0].shape[-1] != width
        number = layers + is_logits if after else last if layer is not None else -1
        output = on_host(node.backend, next(iter(ran.outputs.values())))
        if output.shape == (len(ids), width) or (after and output.shape[0] == len(ids)):
            states[number] = node.name, np.array(output, np.float64)

    (step,) = make_steps(ids, 0, rows=len(ids))
    runner_of(program, [step]).step(step, observe, True)
    return states


def open_theirs(command: str, path: Path) -> tuple[Any, Callable[[Sequence[int]], Any]]:
    """transformers' model of a checkpoint in float32, and what runs it on token ids.

    command: what it is for, as errors tell.

    Raises:
        TinyllmError: transformers is not installed, or cannot read the checkpoint; running it, or cannot run it.
    """
    try:
        import transformers
    except ImportError as error:
        raise TinyllmError(
            f"{command}: --against transformers: {error.name} is not installed; pip install 'tinyllm[bench]'"
        ) from error
    log: Any = transformers.utils.logging
    log.disable_progress_bar()
    source: dict[str, Any] = {"pretrained_model_name_or_path": path if path.is_dir() else path.parent}
    if path.suffix == ".gguf":
        source["gguf_file"] = path.name

    def run(ids: Sequence[int]) -> Any:
        tokens = transformers.BatchEncoding({"input_ids": [list(ids)]}, tensor_type="pt")
        with _told(command, path):
            return theirs(**tokens, output_hidden_states=True, use_cache=False)

    with _told(command, path):
        config = transformers.AutoConfig.from_pretrained(**source)
        sees = getattr(config, "vision_config", None) is not None
        kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        theirs: Any = kind.from_pretrained(**source, dtype="float32")
        theirs.eval().requires_grad_(False)
    return theirs, run


@contextmanager
def _told(command: str, path: Path) -> Iterator[None]:
    """What transformers raises of a checkpoint as an error of ours."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, NotImplementedError) as error:
        raise TinyllmError(f"{command}: --against transformers: it cannot run {path}: {shortened(error)}") from error


def hidden_states(result: Any) -> dict[int, Array]:
    """The embedding, the output of each layer but the last, that of the last norm, and the logits, each `[T, N]`, by
    the numbers that `our_states` gives them."""
    states = [state[0].double().numpy() for state in (*result.hidden_states, result.logits)]
    count = len(states) - 2
    return dict(zip((*range(-1, count - 1), count, count + 1), states, strict=True))


def apart(ours: Array, theirs: Array) -> tuple[float, int]:
    """How far two arrays `[T, N]` are apart at the token where they are furthest, relative to its size; and that
    token."""
    with np.errstate(all="ignore"):
        rows = np.linalg.norm(ours - theirs, axis=-1) / np.maximum(np.linalg.norm(theirs, axis=-1), 1e-30)
        rows = np.where(np.isfinite(rows), rows, np.inf)
    token = int(rows.argmax())
    return float(rows[token]), token


def _difference(what: str, node: str, ours: Array, theirs: Array) -> StateDifference:
    difference, token = apart(ours, theirs)
    place = int(np.nan_to_num(np.abs(ours[token] - theirs[token]), nan=np.inf).argmax())
    return StateDifference(what, node, difference, token, place, float(ours[token, place]), float(theirs[token, place]))
