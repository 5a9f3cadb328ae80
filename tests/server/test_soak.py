"""A crowd of all sorts, for as long as wanted: the memory stays flat, every page comes back, every request is
answered."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow
MINUTES = float(os.environ.get("TINYLLM_SOAK_MINUTES", "0.25"))
"""A quarter in the suite; the twenty that a release is held to are asked for by name."""
CLIENTS = 12
WARM = 0.3
"""Share of the time after which caches are full, and memory has to stay as it is."""
STORY = "The river runs through the valley and turns at the old mill, where the road from the town ends. " * 20


@pytest.fixture
def server(smollm2_path: Path) -> Iterator[tuple[str, int]]:
    """(address, process id) of SmolLM2 behind `tinyllm serve`."""
    command = [sys.executable, "-m", "tinyllm.cli.main", "serve", "-m", str(smollm2_path), "--served-name", "smollm2"]
    command += ["--port", "0", "--log-level", "error"]
    found = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert found.stdout is not None
    try:
        yield found.stdout.readline().split()[0], found.pid
    finally:
        found.terminate()
        assert found.wait(60) == 0


def bodies(random_: random.Random) -> dict[str, tuple[str, dict[str, Any]]]:
    """Requests of each kind: path and body."""
    asked = {
        "messages": [{"role": "user", "content": f"Tell me of number {random_.randrange(10**6)}."}],
        "seed": random_.randrange(2**31),
    }
    answer = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": answer}}
    size = random_.choice([1, 8, 40])
    return {
        "chat": ("chat/completions", asked | {"max_tokens": size}),
        "stream": ("chat/completions", asked | {"max_tokens": size, "stream": True}),
        "aborted": ("chat/completions", asked | {"max_tokens": 200, "stream": True}),
        "choices": ("completions", {"prompt": f"{size} is", "max_tokens": 8, "n": 3, "logprobs": 2}),
        "schema": ("chat/completions", asked | {"max_tokens": 30, "response_format": schema}),
        "shared prefix": ("completions", {"prompt": STORY + str(random_.random()), "max_tokens": 4}),
        "long and new": ("completions", {"prompt": str(random_.random()) + STORY, "max_tokens": 4}),
        "scored": ("completions", {"prompt": STORY, "max_tokens": 1, "echo": True, "logprobs": 1}),
        "refused": ("completions", {"prompt": "a", "max_tokens": -2}),
    }


def client(url: str, until: float, seed: int, outcomes: Counter[str]) -> None:
    """One request after the other, of a kind drawn each time."""
    random_ = random.Random(seed)
    with httpx.Client(base_url=f"{url}/v1/", timeout=120) as http:
        while time.monotonic() < until:
            kind, (path, body) = random_.choice(list(bodies(random_).items()))
            body = {"model": "smollm2", "temperature": 0.8} | body
            with http.stream("POST", path, json=body) as response:
                if kind == "aborted":
                    next(zip(range(random_.randrange(1, 9)), response.iter_lines(), strict=False))
                else:
                    text = response.read()
                    if body.get("stream"):
                        assert text.endswith(b"data: [DONE]\n\n"), text[-200:]
                    else:
                        assert json.loads(text)
            outcomes[f"{kind} {response.status_code}"] += 1


def test_memory_stays_flat_and_no_page_is_lost(
    server: tuple[str, int], record_property: Callable[[str, object], None]
) -> None:
    url, pid = server
    start, outcomes, failed = time.monotonic(), Counter[str](), list[BaseException]()
    until = start + MINUTES * 60

    def run(seed: int) -> None:
        try:
            client(url, until, seed, outcomes)
        except BaseException as error:  # noqa: BLE001  told below, by the thread that the test runs in
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    memory: list[tuple[float, float]] = []
    while any(thread.is_alive() for thread in threads):
        memory.append(((time.monotonic() - start) / 60, psutil.Process(pid).memory_info().rss / 2**20))
        time.sleep(max(0.5, MINUTES / 4))
    assert not failed, failed[:3]
    expected = {kind: 400 if kind == "refused" else 200 for kind in bodies(random.Random(0))}
    assert {*outcomes} <= {f"{kind} {status}" for kind, status in expected.items()}, outcomes
    state = httpx.get(f"{url}/status").json()
    settled = [(minute, size) for minute, size in memory if minute > MINUTES * WARM]
    half = len(settled) // 2
    before, after = (statistics.median(size for _, size in part) for part in (settled[:half], settled[half:]))
    shown = memory[:: max(1, len(memory) // 40)]
    figures = {"requests": sum(outcomes.values()), "outcomes": dict(outcomes), "memory": shown, "state": state}
    record_property("soak", figures)
    print(json.dumps(figures))
    assert (state["running"], state["waiting"], state["pages_held"]) == (0, 0, 0)
    assert after < before * 1.02 + (4 if MINUTES > 5 else 200), f"{before:.0f} MiB, then {after:.0f} MiB"
