"""Who is measured: tinyllm on its backends, and peers on the same file. Each is greedy, and `worker.py` gives it a
process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinyllm.bench.llama_cpp import LlamaCpp, check_gguf
from tinyllm.errors import BackendUnavailableError, TinyllmError, UnknownNameError, UnsupportedError, suggest
from tinyllm.registry.registry import default_registry

Timing = tuple[float, float]
"""Seconds for the prefill up to the first token of each sequence, and for the tokens after it."""


class Contender(Protocol):
    """A loaded model that can be timed."""

    def measure(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        """Prefill the prompts, all of one length, into an empty cache and take the first token of each, then decode
        `new_tokens` more of each, all at a time.

        Raises `UnsupportedError` for several prompts where it is measured with one alone.
        """
        ...


class Tinyllm:
    """tinyllm on one backend: the engine that `llm.stream` and `llm.generate` answer by, where no token ends the
    reply. The prompts are read in one step."""

    def __init__(self, model: str, backend: str, fast: bool) -> None:
        from tinyllm.llm import load

        self.llm = load(model, backend, fast=fast)

    def measure(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        from tinyllm.engine.private_engine import run
        from tinyllm.engine.sampling.params import SamplingParams

        llm = self.llm
        params = SamplingParams(max_tokens=new_tokens + 1, ignore_eos=True)  # greedy, whatever the model's files say
        sequences = [llm.sequence(prompt, True, params) for prompt in prompts]
        if len(sequences) == 1:
            engine = llm.engine_for_one()
        else:
            size, tokens = llm.program.page_size, sum(len(prompt) for prompt in prompts)
            pages = sum(-(-sequence.longest // size) + 1 for sequence in sequences)  # and one that admission keeps free
            engine = llm.engine(pages * size, max_step_tokens=tokens, max_running=len(prompts))
        pieces = run(engine, sequences)
        start = time.perf_counter()
        first = {next(pieces)[0] for _ in sequences}
        middle = time.perf_counter()
        rest = sum(1 for _ in pieces)
        end = time.perf_counter()
        if len(first) != len(prompts) or rest != new_tokens * len(prompts):
            raise _ended("tinyllm", len(first) + rest, len(prompts) * (new_tokens + 1))
        return middle - start, end - middle


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

    def measure(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        with self.torch.step_context():
            start = time.perf_counter()
            out = self.model(self.torch.from_numpy(np.array(prompts)), use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            middle = time.perf_counter()
            for _ in range(new_tokens):
                out = self.model(token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1].argmax(-1, keepdim=True)
            token.tolist()
            return middle - start, time.perf_counter() - middle


class MlxLm:
    """mlx-lm in float32, from a folder in Hugging Face form, in its own loop, which computes a token while it hands out
    the last."""

    def __init__(self, folder: Path, mkl: bool) -> None:
        if mkl:
            default_registry().backend("mlx")  # loads MKL for all to see before mlx is imported
        from mlx_lm import load as mlx_load

        try:
            self.model, self.tokenizer = mlx_load(str(folder))[:2]
        except (ValueError, TypeError, KeyError) as error:  # a family, or a form of it, that it does not know
            raise UnsupportedError(f"mlx-lm: cannot load this model: {' '.join(str(error).split())}") from error

    def measure(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        from mlx_lm import stream_generate

        prompt = _only("mlx-lm", prompts)
        start, times = time.perf_counter(), []
        for _ in stream_generate(self.model, self.tokenizer, prompt, max_tokens=new_tokens + 1):
            times.append(time.perf_counter())
        if len(times) != new_tokens + 1:
            raise _ended("mlx-lm", len(times), new_tokens + 1)
        return times[0] - start, times[-1] - times[0]


class OpenVino:
    """OpenVINO GenAI on the same GGUF file, as it times itself. It rounds activations, and may keep prefixes of earlier
    prompts."""

    def __init__(self, model: Path, threads: int) -> None:
        check_gguf("openvino", model)
        import openvino_genai

        try:
            self.pipeline = openvino_genai.LLMPipeline(str(model), "CPU", INFERENCE_NUM_THREADS=threads)
        except RuntimeError as error:
            raise TinyllmError(f"openvino: cannot load {model}: {' '.join(str(error).split())}") from error

    def measure(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample = new_tokens + 1, False
        config.ignore_eos, config.apply_chat_template = True, False
        ids = openvino.Tensor(np.array([_only("openvino", prompts)], np.int64))
        metrics = self.pipeline.generate(ids, config).perf_metrics
        if metrics.get_num_generated_tokens() != new_tokens + 1:
            raise _ended("openvino", metrics.get_num_generated_tokens(), new_tokens + 1)
        return metrics.get_ttft().mean / 1e3, new_tokens * metrics.get_tpot().mean / 1e3


def _only(peer: str, prompts: list[list[int]]) -> list[int]:
    """The one prompt that there is."""
    if len(prompts) != 1:
        raise UnsupportedError(f"{peer}: expected one sequence at a time, got {len(prompts)}; compare it at --batch 1")
    return prompts[0]


def _ended(peer: str, got: int, expected: int) -> TinyllmError:
    return TinyllmError(f"{peer}: expected {expected} tokens, got {got}; choose fewer with --new-tokens")


@dataclass(frozen=True)
class Peer:
    """The contenders that `--against` brings in, and how their package is installed."""

    contenders: tuple[str, ...]
    install: str


_EXTRA = "pip install 'tinyllm[bench]'"
PEERS: Mapping[str, Peer] = {
    "transformers": Peer(("transformers:float32", "transformers:bfloat16"), _EXTRA),
    "mlx-lm": Peer(("mlx-lm:mkl", "mlx-lm:as-shipped"), _EXTRA),
    "llama.cpp": Peer(("llama.cpp",), "pip install llama-cpp-python"),
    "openvino": Peer(("openvino",), "pip install openvino-genai"),
}
"""What `--against NAME` brings in."""


def peers_named(against: str) -> list[str]:
    """The contenders behind `transformers,llama.cpp`."""
    names = list(dict.fromkeys(n.strip() for n in against.split(",") if n.strip()))
    for name in names:
        if name not in PEERS:
            raise UnknownNameError(f"--against: unknown peer {name!r}.{suggest(name, PEERS)}")
    return [contender for name in names for contender in PEERS[name].contenders]


def make(contender: str, model: Path, folder: Path | None, threads: int) -> Contender:
    """`tinyllm:torch`, `tinyllm:torch:fast`, `transformers:bfloat16`, `mlx-lm:mkl`, `mlx-lm:as-shipped`, `llama.cpp`,
    `openvino`.

    Raises:
        BackendUnavailableError: a package is missing; says how to install it.
        TinyllmError: whatever else keeps it from loading the model.
    """
    kind, _, rest = contender.partition(":")
    if kind == "tinyllm":
        backend, _, mode = rest.partition(":")
        return Tinyllm(str(model), backend, mode == "fast")
    try:
        if kind == "transformers":
            return Transformers(model, rest)
        if kind == "llama.cpp":
            return LlamaCpp(model, threads)
        if kind == "openvino":
            return OpenVino(model, threads)
        if folder is None:
            raise UnknownNameError(f"{contender}: needs the model as a folder in Hugging Face form")
        return MlxLm(folder, rest == "mkl")
    except ImportError as error:
        raise BackendUnavailableError(f"{kind}: {error}; {PEERS[kind].install}") from error
