"""The command line with a model that needs no numbers; `python -m tests.cli.fake_model ARGS` runs it as a process of
its own.

`FAKE_DELAY` (seconds) makes each step slow, `FAKE_LOAD` the loading.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.engine.fakes import VOCABULARY, FakeProgram, FakeTokenizer
from tests.graph.tiny import CONFIG
from tinyllm import llm
from tinyllm.cli import session
from tinyllm.cli.main import main
from tinyllm.cli.output import note
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.registry.registry import default_registry

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{{ mood }}"
)
CONTEXT = 400


def fake_llm(delay: float = 0.0) -> llm.LLM:
    """A model whose reply depends on every character of the prompt."""
    checkpoint: Any = SimpleNamespace(
        path=Path("fake.gguf"), tokenizer=FakeTokenizer, chat_template=lambda: ChatTemplate({"default": TEMPLATE}, {})
    )
    program: Any = FakeProgram(delay)
    config = replace(CONFIG, vocab_size=VOCABULARY, max_position=CONTEXT, eos_token_ids=(0,))
    return llm.LLM(checkpoint, config, program, ["rope_freqs.weight"], default_registry())


def load_fake(
    model: str | None,
    backend: str | None,
    dtype: str | None,
    fast: bool | None,
    kv_cache_dtype: str | None,
    *,
    quiet: bool = False,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
) -> llm.LLM:
    """In place of `load_model`."""
    if seconds := float(os.environ.get("FAKE_LOAD", "0")):
        note("loading")
        time.sleep(seconds)
    return fake_llm(float(os.environ.get("FAKE_DELAY", "0")))


if __name__ == "__main__":
    session.load_model = load_fake
    sys.exit(main())
