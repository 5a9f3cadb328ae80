"""`tinyllm bench start`: from the command to the first token, and the peak of memory, each a whole process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from tinyllm.errors import TinyllmError, UnknownNameError

PROMPT = "Why is the sky blue?"
TRANSFORMERS = """
import sys, torch, transformers as t
where = dict(pretrained_model_name_or_path=sys.argv[1], gguf_file=sys.argv[2])
tokenizer = t.AutoTokenizer.from_pretrained(**where)
model = t.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
messages = [dict(role="user", content=sys.argv[3])]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=int(sys.argv[4]), do_sample=False)[0]))
"""


def check_peers(against: list[str]) -> None:
    """Raises `UnknownNameError` for a peer whose command is not known here."""
    for name in against:
        if name != "transformers":
            raise UnknownNameError(
                f"bench start: --against: expected transformers, got {name!r}; bench model measures the others"
            )


def commands(model: Path, backends: list[str], against: list[str], tokens: int) -> dict[str, list[str]]:
    """What is run, by name."""
    start = [
        sys.executable,
        "-m",
        "tinyllm.cli.main",
        "generate",
        PROMPT,
        "--model",
        str(model),
        "--max-tokens",
        str(tokens),
        "--temperature",
        "0",
    ]
    found = {f"tinyllm generate --backend {b}": [*start, "--backend", b] for b in backends}
    if "transformers" in against:
        found["transformers"] = [sys.executable, "-c", TRANSFORMERS, str(model.parent), model.name, PROMPT, str(tokens)]
    return found


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes of one run.

    Raises:
        TinyllmError: it failed; gives its last line.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise TinyllmError((said.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1])
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, usage.ru_maxrss * unit / 1e6


def measure(found: dict[str, list[str]], rounds: int, on_step: Any) -> dict[str, dict[str, float]]:
    """Medians over `rounds` runs of each command in turn, after one that is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, command in found.items():
            on_step(f"round {number} of {rounds}: {name}")
            result = run(command)
            if number:
                times[name].append(result)
    return {n: {"seconds": median(t for t, _ in v), "peak_mb": median(m for _, m in v)} for n, v in times.items()}
