"""Models to talk to: SmolLM2's file, and tiny random checkpoints that transformers writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tinyllm.models.sources import resolve


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF of SmolLM2-135M-Instruct; fetched if it is not there."""
    return Path(resolve("smollm2"))


@pytest.fixture(scope="session")
def judge(smollm2: Path) -> Any:
    """transformers' model of the same file, in float32."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype="float32").eval()
