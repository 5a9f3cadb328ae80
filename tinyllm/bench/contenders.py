"""Who is measured: tinyllm on its backends, and peers on the same file. Each runs in a process of its own,
which times it whenever it is told to: a JSON line in, a JSON line out."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError, UnknownNameError, suggest
from tinyllm.registry.registry import default_registry

Timing = tuple[float, float]
"""Seconds for the prefill up to its first token, and for the tokens after it."""


class Tinyllm:
    """tinyllm on one backend, as users have it: `llm.stream`, where no token ends the reply."""

    def __init__(self, model: str, backend: str, fast: bool) -> None:
        from tinyllm.llm import load

        self.llm = load(model, backend, fast=fast)

    def measure(self, prompt: list[int], new_tokens: int) -> Timing:
        pieces = self.llm.stream(prompt, max_tokens=new_tokens + 1, ignore_eos=True)
        start = time.perf_counter()
        next(pieces)
        middle = time.perf_counter()
        for _ in pieces:
            pass
        return middle - start, time.perf_counter() - middle


class Transformers:
    """transformers on torch, from the same GGUF file or folder."""

    def __init__(self, model: Path, dtype: str) -> None:
        from transformers import AutoModelForCausalLM

        where = (
            {"pretrained_model_name_or_path": model.parent, "gguf_file": model.name}
            if model.is_file()
            else {"pretrained_model_name_or_path": model}
        )
        loaded: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
        self.model = loaded.eval()
        self.torch = default_registry().backend("torch")

    def measure(self, prompt: list[int], new_tokens: int) -> Timing:
        with self.torch.step_context():
            start = time.perf_counter()
            out = self.model(self.torch.from_numpy(np.array([prompt])), use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            middle = time.perf_counter()
            for _ in range(new_tokens):
                out = self.model(token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1].argmax(-1, keepdim=True)
            token.item()
            return middle - start, time.perf_counter() - middle


class MlxLm:
    """mlx-lm in float32, from a folder in Hugging Face form, in its own loop, which computes a token while it hands out
    the last."""

    def __init__(self, folder: Path, mkl: bool) -> None:
        if mkl:
            default_registry().backend("mlx")  # loads MKL for all to see before mlx is imported
        from mlx_lm import load as mlx_load

        self.model, self.tokenizer = mlx_load(str(folder))[:2]

    def measure(self, prompt: list[int], new_tokens: int) -> Timing:
        from mlx_lm import stream_generate

        start, times = time.perf_counter(), []
        for _ in stream_generate(self.model, self.tokenizer, prompt, max_tokens=new_tokens + 1):
            times.append(time.perf_counter())
        if len(times) != new_tokens + 1:
            raise TinyllmError(
                f"mlx-lm ended after {len(times)} tokens of {new_tokens + 1}: choose fewer with --new-tokens"
            )
        return times[0] - start, times[-1] - times[0]


Contender = Tinyllm | Transformers | MlxLm
"""A loaded model that can be timed at batch 1, greedy: `measure` prefills a prompt into an empty cache and takes its
first token, then decodes `new_tokens` more."""
PEERS: dict[str, tuple[str, ...]] = {
    "transformers": ("transformers:float32", "transformers:bfloat16"),
    "mlx-lm": ("mlx-lm:mkl", "mlx-lm:as-shipped"),
}
"""What `--against NAME` brings in."""


def peers_named(against: str) -> list[str]:
    """The contenders behind `transformers,mlx-lm`."""
    names = [n.strip() for n in against.split(",") if n.strip()]
    for name in names:
        if name not in PEERS:
            raise UnknownNameError(f"--against: unknown peer {name!r}.{suggest(name, PEERS)}")
    return [contender for name in names for contender in PEERS[name]]


def make(contender: str, model: Path, folder: Path | None) -> Contender:
    """`tinyllm:torch`, `tinyllm:torch:fast`, `transformers:bfloat16`, `mlx-lm:mkl`, `mlx-lm:as-shipped`."""
    kind, _, rest = contender.partition(":")
    if kind == "tinyllm":
        backend, _, mode = rest.partition(":")
        return Tinyllm(str(model), backend, mode == "fast")
    if kind == "transformers":
        return Transformers(model, rest)
    if folder is None:
        raise UnknownNameError(f"{contender}: needs the model as a folder in Hugging Face form")
    return MlxLm(folder, rest == "mkl")


def main() -> None:
    """`contenders CONTENDER MODEL FOLDER`: reads `{"prompt": [...], "new_tokens": n}` lines and answers with
    `[prefill_s, decode_s]`."""
    contender, model, folder = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not mix into the answers
    loaded = make(contender, Path(model), Path(folder) if folder else None)
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        loaded.measure(request["prompt"], 1)  # others ran meanwhile: caches and threads warm up again, uncounted
        print(json.dumps(loaded.measure(request["prompt"], request["new_tokens"])), file=answers)


if __name__ == "__main__":
    main()
