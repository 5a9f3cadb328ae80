"""`tinyllm bench model`: prefill and decode speed of a model, every contender in turn, round after round."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

from tinyllm.errors import TinyllmError
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.spec.quantized import dense


@dataclass
class Result:
    """Speeds of one contender, tokens per second, a number per round. `error` is set instead where it could not run."""

    contender: str
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """Medians with their range."""
        if self.error:
            return {"contender": self.contender, "error": self.error}
        return {"contender": self.contender} | {
            name: {"median": median(v), "min": min(v), "max": max(v)}
            for name, v in (("prefill", self.prefill), ("decode", self.decode))
        }


class _Worker:
    def __init__(self, contender: str, model: Path, folder: Path | None, log: IO[bytes]) -> None:
        self.log = log
        command = [sys.executable, "-m", "tinyllm.bench.contenders", contender, str(model), str(folder or "")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        self.answer()

    def answer(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace").strip().splitlines()
            raise TinyllmError(said[-1] if said else f"ended with code {self.process.wait()}")
        return json.loads(line)

    def measure(self, prompt: list[int], new_tokens: int) -> tuple[float, float]:
        if self.process.stdin:
            print(json.dumps({"prompt": prompt, "new_tokens": new_tokens}), file=self.process.stdin, flush=True)
        prefill, decode = self.answer()
        return prefill, decode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(
    contenders: list[str], model: Path, prompt: list[int], new_tokens: int, rounds: int, on_step: Callable[[str], None]
) -> list[Result]:
    """Time every contender `rounds` times, in turn, after one round that is not counted.

    Ratios of numbers from one run hold on a noisy machine; absolute numbers do not.
    """
    results = {name: Result(name) for name in contenders}
    workers: dict[str, _Worker] = {}
    with tempfile.TemporaryDirectory(prefix="tinyllm-bench-") as scratch:
        folder = Path(scratch) / "model"
        try:
            for name in contenders:
                on_step(f"loading {name}")
                with _reported(results[name]):
                    if name.startswith("mlx-lm") and not folder.exists():
                        _as_folder(model, folder)
                    workers[name] = _Worker(
                        name,
                        model,
                        folder if folder.exists() else None,
                        (Path(scratch) / f"{name}.log".replace(":", "-")).open("wb+"),
                    )
            for number in range(rounds + 1):
                for name, worker in list(workers.items()):
                    on_step(f"round {number} of {rounds}: {name}")
                    with _reported(results[name]):
                        prefill, decode = worker.measure(prompt, new_tokens)
                        if number:
                            results[name].prefill.append(len(prompt) / prefill)
                            results[name].decode.append(new_tokens / decode)
                    if results[name].error:
                        workers.pop(name).close()
        finally:
            for worker in workers.values():
                worker.close()
    return list(results.values())


@contextmanager
def _reported(result: Result) -> Iterator[None]:
    """A contender that fails is reported and does not stop the others."""
    try:
        yield
    except (TinyllmError, OSError, ImportError, subprocess.SubprocessError) as error:
        result.error = str(error)


def _as_folder(model: Path, folder: Path) -> None:
    """The model as float32 safetensors in Hugging Face form, which mlx-lm reads."""
    if model.is_dir():
        folder.symlink_to(model)
        return
    from safetensors.numpy import save_file
    from transformers import AutoTokenizer

    checkpoint = open_checkpoint(model)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(checkpoint.config), encoding="utf-8")
    tensors = {}
    for name in checkpoint.tensor_names():
        tensor = checkpoint.read(name)
        tensors[name] = np.array(dense(np, tensor, np.float32), np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "mlx"})
    AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name).save_pretrained(folder)


def perplexity(model: Path, backend: str, fast: bool) -> float:
    """Perplexity of the bench text, in windows of 512 tokens: what `--fast` costs."""
    from tinyllm.llm import load

    llm = load(model, backend, fast=fast)
    ids = llm.tokenizer.encode((Path(__file__).parent / "text.txt").read_text(encoding="utf-8"))
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, 512):
        window = ids[start : start + 513]
        logits = llm.logits(window[:-1]).astype(np.float64)
        top = logits.max(-1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
        total += float((log_sum - logits[np.arange(len(window) - 1), window[1:]]).sum())
        count += len(window) - 1
    return float(np.exp(total / count))
