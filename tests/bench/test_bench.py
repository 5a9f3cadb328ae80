"""The benches of models and commands: peers are named, and what fails is reported beside the rest. `test_ops.py` has
those of ops."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.catalogue.harness import backends
from tinyllm.bench.contenders import peers_named
from tinyllm.bench.model import Plan, Result, measure, perplexity
from tinyllm.bench.start import commands, run
from tinyllm.errors import TinyllmError, UnknownNameError


def test_unknown_peers_are_refused() -> None:
    """With the nearest name."""
    with pytest.raises(UnknownNameError, match=r"unknown peer 'transformer'. Did you mean 'transformers'"):
        peers_named("transformer")


@pytest.mark.slow
def test_a_contender_that_fails_does_not_stop_the_others(smollm2_path: Path) -> None:
    """Its error stands in its row; the others are measured."""
    contenders, plan = ["tinyllm:nowhere", "tinyllm:numpy"], Plan(17, 4, (1, 2), 2, 2)
    failed, ran, failed_again, ran_two = measure(contenders, smollm2_path, plan, lambda text: None)
    assert failed.error and "unknown backend 'nowhere'" in failed.error and failed_again.error == failed.error
    for result in (ran, ran_two):
        assert result.error is None and len(result.prefill) == len(result.decode) == 2
        assert min(result.prefill + result.decode) > 0 and result.first_token > 0.1
    assert 100 < ran.peak_mb <= ran_two.peak_mb


def test_rows_show_medians() -> None:
    """One slow round does not count for more than it is."""
    row = Result("x", 1, [1.0, 3.0, 100.0], [2.0]).row()
    assert row["prefill"] == {"median": 3.0, "min": 1.0, "max": 100.0} and row["decode"]["median"] == 2.0


@pytest.mark.slow
@pytest.mark.skipif("torch" not in backends(), reason="needs kernels that round")
def test_fast_kernels_hardly_change_perplexity(smollm2_path: Path) -> None:
    """Under one part in two hundred, and the text is one that the model can predict."""
    exact, fast = perplexity(smollm2_path, "torch", False), perplexity(smollm2_path, "torch", True)
    assert 5 < exact < 60 and abs(fast / exact - 1) < 5e-3


def test_whole_commands_are_timed_and_their_failures_told() -> None:
    """Seconds and peak megabytes of a process; one that fails gives its last line."""
    seconds, peak = run([sys.executable, "-c", "x = bytearray(50_000_000)"])
    assert seconds > 0 and peak > 50
    with pytest.raises(TinyllmError, match=r"SystemExit|the last line"):
        run([sys.executable, "-c", "import sys; print('first', file=sys.stderr); sys.exit('the last line')"])
    found = commands(Path("m.gguf"), ["numpy", "torch"], ["transformers"], 1)
    assert list(found) == ["tinyllm generate --backend numpy", "tinyllm generate --backend torch", "transformers"]
