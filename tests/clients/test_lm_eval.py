"""lm-evaluation-harness against SmolLM2 over a real socket. It runs where `lm_eval` is installed, or with the Python
that `TINYLLM_LM_EVAL_PYTHON` names, as it wants an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.server.fakes import serving
from tinyllm import load
from tinyllm.server.served_model import EngineSettings, ServedModel

ROOT = Path(__file__).parents[2]
NAMED = os.environ.get("TINYLLM_LM_EVAL_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        NAMED is None and find_spec("lm_eval") is None,
        reason="lm_eval is not installed, and TINYLLM_LM_EVAL_PYTHON names no Python that has it",
    ),
]


def test_scores_are_those_that_it_gets_from_transformers(smollm2_path: Path) -> None:
    model = ServedModel("smollm2", lambda: load(smollm2_path), EngineSettings(max_step_tokens=256))
    with serving(model, load_seconds=120) as live:
        command = [NAMED or sys.executable, "-m", "tests.clients.lm_eval", "--base-url", f"{live.url}/v1"]
        command += ["--model", "smollm2", "--checkpoint", str(smollm2_path)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert live.settled()
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0 and len(lines) == 4 and all(line.startswith("ok: ") for line in lines), (
        ran.stdout + ran.stderr[-2000:]
    )
