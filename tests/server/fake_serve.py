"""`tinyllm serve` with a fake model: `python -m tests.server.fake_serve OPTIONS`.

`FAKE_DELAY`, `FAKE_LOAD`: seconds of a step, of loading.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tests.openai.fakes import Program, make_llm
from tinyllm.cli import app, session
from tinyllm.cli.main import main
from tinyllm.cli.serve import serve
from tinyllm.errors import ModelNotFoundError
from tinyllm.llm import LLM


def load(*arguments: Any, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> LLM:
    """In place of `load_model`."""
    time.sleep(float(os.environ.get("FAKE_LOAD", "0")))
    if os.environ.get("FAKE_BROKEN"):
        raise ModelNotFoundError("no such model: nowhere")
    return make_llm(Program(delay=float(os.environ.get("FAKE_DELAY", "0"))))


if __name__ == "__main__":
    session.load_model = load
    if not any(command.callback is serve for command in app.app.registered_commands):
        app.app.command()(serve)
    sys.exit(main(["serve", *sys.argv[1:]]))
