"""The perplexity of a real text under the real model is transformers'."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import registry
from tinyllm.llm import load

TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")[:1000]


@pytest.mark.slow
@pytest.mark.parametrize(("context", "stride"), [(128, 64), (200, 200)])
def test_perplexity_is_that_of_transformers(context: int, stride: int, smollm2_path: Path, judge: Any) -> None:
    """By the loss that its own model computes in the windows of its guide, within a part in a thousand."""
    torch = pytest.importorskip("torch")
    llm = load(smollm2_path, registry=registry())
    ids = torch.tensor([llm.encode(TEXT, raw=True)])
    total, count, end_before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + context, ids.shape[1])
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : -(end - end_before)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        with torch.inference_mode():
            total += float(judge(window, labels=labels).loss) * scored
        count, end_before = count + scored, end
        if end == ids.shape[1]:
            break
    found = llm.logprobs(TEXT, context, stride)
    assert found.scored == count
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-3)
