"""The real model with its nodes spread over backends: the tokens and logits of each backend alone."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.llm.test_smollm2 import llm
from tinyllm.llm import load

PROMPT = "Why is the sky blue?"


def spread(seed: int) -> str:
    """Each part of each layer on a backend by chance: attention with its cache, and each other call by itself."""
    chance = random.Random(seed)
    parts = [f"*.{n}.{part}.*={chance.choice(backends())}" for n in range(30) for part in ("self_attn", "mlp")]
    parts += [f"*.{n}.{call}={chance.choice(backends())}" for n in range(30) for call in ("rms_norm*", "add*")]
    return ",".join([*parts, f"*={chance.choice(backends())}"])


@cache
def alone(backend: str, path: Path) -> tuple[list[int], np.ndarray]:
    """The tokens and the logits of one backend."""
    model = llm(backend, path)
    return model.generate(PROMPT, max_tokens=8, temperature=0.0).token_ids, model.logits(model.encode(PROMPT))


@pytest.mark.slow
@pytest.mark.parametrize("selection", [f"model.layers.3.*={backends()[-1]},*={backends()[0]}", spread(1)])
def test_mixed_programs_answer_as_each_backend_alone(smollm2_path: Path, selection: str) -> None:
    mixed = load(smollm2_path, selection, registry=registry())
    assert len({node.backend.name for node in mixed.program.nodes}) >= min(2, len(backends()))
    tokens = mixed.generate(PROMPT, max_tokens=8, temperature=0.0).token_ids
    logits = mixed.logits(mixed.encode(PROMPT))
    for backend in backends():
        assert alone(backend, smollm2_path)[0] == tokens
        np.testing.assert_allclose(logits, alone(backend, smollm2_path)[1], atol=2e-3, rtol=0)
