"""A model without numbers: it writes tokens into pages and reads them back, so that a token in a wrong place changes
the reply; and an engine for it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.engine.bookkeeping import engine_problems
from tinyllm.engine.engine import Engine
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import Sequence
from tinyllm.models.text.token_text import TextStream

VOCABULARY = 128
STOP = 0
NOWHERE = -1
PAGE = 4


class FakeTokenizer:
    """A token is a character of ASCII; 0 ends a reply."""

    longest_token = 16
    eos_token_ids = (STOP,)
    vocab_size = VOCABULARY
    special_tokens: Mapping[str, int] = {}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(c) % VOCABULARY for c in text]

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def showing(self, texts: Collection[str]) -> FakeTokenizer:
        return self

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        return TextStream(self.token_bytes)


@dataclass
class FakeProgram:
    """What `ModelRunner` asks of a program. The logits of a row depend on all tokens of its sequence so far, as its
    pages hold them."""

    delay: float = 0.0
    stop_after: int | None = None
    page_size: int = PAGE
    cache_dtypes: tuple[str, ...] = ("int64",)
    scalings: tuple[Any, ...] = ()
    is_recurrent: bool = False
    sizes: list[int] = field(default_factory=list)
    """Tokens of each step."""
    rows: list[int] = field(default_factory=list)
    """Logits that each step was asked for."""
    page_sizes: list[int] = field(default_factory=list)
    """Tokens of a page at each step."""
    nodes: tuple[Any, ...] = tuple(
        SimpleNamespace(op=op, kernel=kernel, backend=SimpleNamespace(name="fake", device="cpu"))
        for op, kernel in (("copy", "copy host->fake:cpu"), ("linear", "fake/linear:fused"))
    )
    report: Any = field(
        default_factory=lambda: SimpleNamespace(
            kernels={"0.mlp": "fake/linear:fused", "1.mlp": "fake/linear:fused", "norm": "fake/rms_norm:reference"},
            second_copies=["embed: fake/embedding:rows, fake/linear:fused"],
            expanded={"affine, 4 bits": (4_000_000, 16_000_000)},
            share=None,
        )
    )

    def allocate(self, pages: int, page_size: int, rows: int = 1) -> dict[str, Any]:
        return {"pages": np.full((pages, page_size), NOWHERE)}

    def check(self) -> None:
        """It runs for ever."""

    def pool_bytes(self, pages: int, page_size: int, rows: int = 1) -> tuple[int, int]:
        return 8 * pages * page_size, 0

    def gathered(self, kv_len: np.ndarray, block_table: np.ndarray, page_size: int) -> int:
        return 0

    def grow(self, state: dict[str, Any], pages: int, page_size: int, rows: int = 1) -> dict[str, Any]:
        old = state.pop("pages")
        new = self.allocate(pages, page_size)
        new["pages"][: old.shape[0], : old.shape[1]] = old
        return new

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: dict[str, Any]
    ) -> tuple[list[np.ndarray], dict[str, Any]]:
        time.sleep(self.delay)
        pool = state.pop("pages")
        pool.reshape(-1)[inputs["slots"]] = inputs["tokens"]
        self.sizes.append(len(inputs["tokens"]))
        self.rows.append(len(inputs["logit_rows"]))
        self.page_sizes.append(pool.shape[1])
        rows = []
        for row in inputs["logit_rows"]:
            sequence = int(np.searchsorted(inputs["q_start"], row, side="right")) - 1
            length = int(inputs["positions"][row, 0]) + 1
            held = pool[inputs["block_table"][sequence]].reshape(-1)[:length]
            if NOWHERE in held or length > inputs["kv_len"][sequence]:
                raise IndexError("a key that nobody wrote was read")
            rows.append(self.logits(held))
        return [np.array(rows, np.float32).reshape(-1, VOCABULARY)], {"pages": pool}

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Any function of the whole sequence that mixes it well; lower-case letters are likely, so that replies can be
        read."""
        noise = np.random.default_rng(zlib.crc32(np.asarray(tokens, np.int64).tobytes())).standard_normal(VOCABULARY)
        noise[ord("a") : ord("z") + 1] += 8
        if self.stop_after is not None and len(tokens) >= self.stop_after:
            noise[STOP] += 50
        return noise.astype(np.float32)


class Failing(FakeProgram):
    """Fails on every step that has the token `!`."""

    def __call__(self, inputs: Any, state: Any) -> Any:
        if ord("!") in inputs["tokens"]:
            state.clear()
            raise RuntimeError("out of luck")
        return super().__call__(inputs, state)


def sequence(prompt: str, limit: int = 1000, **sampling: Any) -> Sequence:
    """A request for the fake model."""
    tokenizer: Any = FakeTokenizer()
    return Sequence(tokenizer.encode(prompt), SamplingParams(**sampling), tokenizer, frozenset({STOP}), limit)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def engine(program: Any = None, pages: int = 64, **settings: Any) -> Engine:
    settings = {"page_size": PAGE, "max_step_tokens": 16, "max_running": 8, "clock": Clock()} | settings
    return Engine(ModelRunner(program or FakeProgram()), pages=pages, **settings)


def alone(prompt: str, **sampling: Any) -> str:
    """What a prompt gives by itself, with all the room there is."""
    return run(engine(pages=256, max_step_tokens=4096), {"a": (prompt, sampling)})["a"]


def run(
    tested: Engine, requests: dict[str, tuple[str, dict[str, Any]]], on_step: Callable[[int], None] = lambda n: None
) -> dict[str, str]:
    """All to their end; the texts."""
    for name, (prompt, sampling) in requests.items():
        tested.add(name, [sequence(prompt, **sampling)])
    texts, steps = dict.fromkeys(requests, ""), 0
    while tested.has_work:
        for event in tested.step():
            assert event.error is None, event
            texts[event.request] += event.piece.text if event.piece else ""
        assert engine_problems(tested) == []
        on_step(steps := steps + 1)
        assert steps < 10_000
    return texts
