"""Tiny random checkpoints of a family, written by transformers, which is the judge of all that is computed of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.errors import CheckpointError
from tinyllm.llm import LLM, load
from tinyllm.models.families.families import decoder_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PROMPT = [int(i) for i in np.random.default_rng(1).integers(3, 97, 70)]
BOUND = 3e-4
"""Of the largest logit: what float32 sums in another order, layer after layer, may come to."""


@dataclass(frozen=True)
class Tiny:
    """A tiny model: the prefix of transformers' classes, and what of its config is not as in `SIZES`; the config's own
    class where it has another prefix; for one that sees, the config of its vision tower, and of the whole."""

    classes: str
    config: dict[str, Any] = field(default_factory=dict)
    config_class: str = ""
    vision: dict[str, Any] | None = None
    whole: dict[str, Any] = field(default_factory=dict)
    spread: float = 0.15
    """The deviation of its weights: large enough that every feature moves the logits."""

    @property
    def theirs(self) -> Any:
        """transformers' config."""
        kind = getattr(transformers, self.config_class or f"{self.classes}Config")
        text = SIZES | self.config
        return kind(**text) if self.vision is None else kind(text_config=text, vision_config=self.vision, **self.whole)

    def save(self, folder: Path, dtype: str = "float32", **save: Any) -> Any:
        """Write the checkpoint, and give transformers' model of it in float32."""
        torch.manual_seed(0)
        task = "ForCausalLM" if self.vision is None else "ForConditionalGeneration"
        kind = getattr(transformers, f"{self.classes}{task}")
        model = kind(self.theirs).to(getattr(torch, dtype)).eval()
        for name, parameter in model.named_parameters():  # what starts as 0 or 1 would hide mistakes
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
            else:
                torch.nn.init.normal_(parameter, 0.0, self.spread)
        for name, buffer in model.named_buffers():
            if name.endswith(("bias", "layer_scalar")):
                torch.nn.init.normal_(buffer, 1.0 if name.endswith("scalar") else 0.0, 0.3)
        model.save_pretrained(folder, **save)
        # read back: casting the model casts its rotary frequencies too, which no checkpoint holds
        return kind.from_pretrained(folder, dtype="float32").eval()


def own_config(classes: str, **changes: Any) -> dict[str, Any]:
    """A `config.json` with transformers' own defaults."""
    config: dict[str, Any] = getattr(transformers, f"{classes}Config")().to_dict()
    return config | changes


def assert_refused(config: dict[str, Any], changes: dict[str, Any], told: str = "") -> None:
    """The config with the changes is refused by the name of the first, and `told` follows it."""
    with pytest.raises(CheckpointError, match=f"config: {next(iter(changes))}{told}"):
        decoder_config(config | changes)


def wanted_logits(judge: Any, ids: list[int]) -> np.ndarray:
    """transformers' logits `[L, V]` of all positions."""
    with torch.inference_mode():
        logits: np.ndarray = judge(torch.tensor([ids])).logits[0].float().numpy()
    return logits


def in_steps(llm: LLM, prompts: list[list[int]], size: int) -> list[np.ndarray]:
    """Logits of all positions of several sequences, which go through the cache side by side in chunks of `size`."""
    page = 16
    runner = ModelRunner(llm.program, sum(-(-len(ids) // page) for ids in prompts), page, len(prompts))
    free = iter(range(runner.pages))
    pages = [[next(free) for _ in range(0, len(ids), page)] for ids in prompts]
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    for start in range(0, max(map(len, prompts)), size):
        numbers = [n for n, ids in enumerate(prompts) if start < len(ids)]
        parts = [prompts[n][start : start + size] for n in numbers]
        chunks = [Chunk(p, start, pages[n], len(p), len(prompts[n]), n) for n, p in zip(numbers, parts, strict=True)]
        logits = np.split(runner.step(make_step(chunks, page)), np.cumsum([len(part) for part in parts])[:-1])
        for n, rows in zip(numbers, logits, strict=True):
            found[n].append(rows)
    return [np.concatenate(rows) for rows in found]


def assert_is_the_judges(folder: Path, judge: Any, backend: str, ids: list[int] = PROMPT) -> None:
    """Logits of a prompt in one piece, step by step, in chunks and beside others are transformers', and so are the
    tokens of a greedy continuation."""
    llm = load(folder, backend, registry=registry())
    wanted = wanted_logits(judge, ids)
    bound = BOUND * np.abs(wanted).max()
    np.testing.assert_allclose(llm.logits(ids), wanted, atol=bound, rtol=0)
    other = ids[::-1][: len(ids) // 2]
    for prompts, size in (([ids], 1), ([ids, other], 13)):
        for prompt, logits in zip(prompts, in_steps(llm, prompts, size), strict=True):
            np.testing.assert_allclose(logits, wanted_logits(judge, prompt), atol=bound, rtol=0)
    found = list(ids)
    for _ in range(8):
        found.append(int(llm.logits(found)[-1].argmax()))
    with torch.inference_mode():
        reply = judge.generate(
            torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    assert found == reply[0].tolist()


def assert_same_logits(folder: Path, gguf: Path, backend: str = "numpy") -> None:
    """A checkpoint in two forms computes the same."""
    ours, theirs = (load(path, backend, registry=registry()).logits(PROMPT) for path in (gguf, folder))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)
