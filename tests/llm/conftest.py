"""transformers' model of SmolLM2's file, as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def judge(smollm2_path: Path) -> Any:
    """transformers' model of the same file, in float32."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name, dtype="float32"
    ).eval()
