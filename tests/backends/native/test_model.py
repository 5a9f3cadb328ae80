"""The real model on the native backend: as exact as float64 where that is asked, and hardly worse where it rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.harness import available
from tinyllm.bench.model import perplexity
from tinyllm.llm import load

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not available("native"), reason="no native library")]


def test_perplexity_is_that_of_float64(smollm2_path: Path) -> None:
    """To five digits; rounding activations changes it by less than one part in two hundred."""
    exact, rounded = (perplexity(smollm2_path, "native", fast) for fast in (False, True))
    wide = perplexity(smollm2_path, "numpy", False, dtype="float64")
    assert abs(exact / wide - 1) < 1e-5
    assert abs(rounded / wide - 1) < 5e-3 and rounded != exact


def test_a_step_is_one_call(smollm2_path: Path) -> None:
    """Of the library, with every node of the graph."""
    program = load(smollm2_path, "native").program
    (step,) = program.steps
    assert step.run is not None and {node.name for node in step.run.nodes} == {*program.report.kernels}
