"""`tinyllm bench model`: prefill and decode speed of a model, every contender in turn, round after round."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tinyllm.bench.folder import write_folder
from tinyllm.bench.worker import Worker
from tinyllm.errors import TinyllmError


@dataclass
class Result:
    """Speeds of one contender with so many sequences at a time, in tokens per second of all of them together, a number
    per round.

    first_token: seconds from the start of its process to the first token of its first prompt. peak_mb: the most memory
    that its process held by the end of these rounds. error: set instead where it could not run.
    """

    contender: str
    batch: int
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    first_token: float = 0.0
    peak_mb: float = 0.0
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """Medians with their range."""
        name = {"contender": self.contender, "batch": self.batch}
        if self.error:
            return name | {"error": self.error}
        speeds = {
            kind: {"median": median(v), "min": min(v), "max": max(v)}
            for kind, v in (("prefill", self.prefill), ("decode", self.decode))
        }
        return name | speeds | {"first_token": self.first_token, "peak_mb": self.peak_mb}


@dataclass(frozen=True)
class Plan:
    """What each contender does: prompts of so many tokens, so many tokens decoded after each, `rounds` times for each
    number of sequences at a time in `batches`, on so many threads."""

    prompt_tokens: int
    new_tokens: int
    batches: tuple[int, ...]
    rounds: int
    threads: int

    def prompts(self, batch: int, number: int) -> list[list[int]]:
        """The prompts of a round, which begin as no others do: nobody has their keys in a cache."""
        rng = np.random.default_rng((batch, number))
        return [[int(token) for token in rng.integers(100, 1100, self.prompt_tokens)] for _ in range(batch)]


def measure(contenders: list[str], model: Path, plan: Plan, on_step: Callable[[str], None]) -> list[Result]:
    """Time every contender `plan.rounds` times, in turn, after one round that is not counted; then with the next number
    of sequences at a time.

    Ratios of numbers from one run hold on a noisy machine; absolute numbers do not.
    """
    batches = sorted(set(plan.batches))  # memory only grows
    results = {(name, batch): Result(name, batch) for batch in batches for name in contenders}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory(prefix="tinyllm-bench-") as scratch:
        try:
            for name in contenders:
                on_step(f"loading {name}")
                own = [results[name, batch] for batch in batches]
                with _reported(own):
                    workers[name] = _loaded(name, model, Path(scratch), plan.threads)
                    first = workers[name].measure(plan.prompts(1, plan.rounds + 1), 1)
                    for result in own:
                        result.first_token = workers[name].loaded + first.prefill
            for batch in batches:
                for number in range(plan.rounds + 1):
                    for name, worker in workers.items():
                        if results[name, batch].error is None:
                            on_step(f"round {number} of {plan.rounds}, {batch} at a time: {name}")
                            with _reported([results[name, batch]]):
                                _round(worker, results[name, batch], plan, number)
        finally:
            for worker in workers.values():
                worker.close()
    return list(results.values())


def _loaded(name: str, model: Path, scratch: Path, threads: int) -> Worker:
    """A worker for a contender, with the files that it needs."""
    folder = scratch / "model" if name.startswith("mlx-lm") else None
    if folder is not None and not folder.exists():
        _as_folder(model, folder)
    return Worker(name, model, folder, threads, (scratch / f"{name}.log".replace(":", "-")).open("wb+"))


def _round(worker: Worker, result: Result, plan: Plan, number: int) -> None:
    """A round of one contender; round 0 is not counted."""
    prompts = plan.prompts(result.batch, number)
    worker.measure([p[::-1] for p in prompts], 1)  # others ran meanwhile: caches and threads warm up again, uncounted
    measured = worker.measure(prompts, plan.new_tokens)
    result.peak_mb = measured.peak_mb
    if number:
        result.prefill.append(result.batch * plan.prompt_tokens / measured.prefill)
        result.decode.append(result.batch * plan.new_tokens / measured.decode)


@contextmanager
def _reported(results: list[Result]) -> Iterator[None]:
    """A contender that fails is reported and does not stop the others."""
    try:
        yield
    except (TinyllmError, OSError, ImportError, subprocess.SubprocessError) as error:
        for result in results:
            result.error = str(error)


def _as_folder(model: Path, folder: Path) -> None:
    """The model as float32 safetensors in Hugging Face form, which mlx-lm reads."""
    if model.is_dir():
        folder.symlink_to(model)
        return
    from transformers import AutoTokenizer

    folder.mkdir()
    write_folder(model, folder)
    AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name).save_pretrained(folder)


def perplexity(model: Path, backend: str, fast: bool, dtype: str | None = None) -> float:
    """Perplexity of the bench text, in windows of 512 tokens: what `--fast` costs. dtype: of activations."""
    from tinyllm.llm import load

    llm = load(model, backend, fast=fast, dtype=dtype)
    ids = llm.tokenizer.encode((Path(__file__).parent / "text.txt").read_text(encoding="utf-8"))
    return llm.logprobs(ids, context=513, stride=512).perplexity
