"""Policies of `tinyllm route` before two real servers: `python -m tests.benchmarks.routing [MODEL [REQUESTS]]`.

Two `tinyllm serve` on a thread each serve throughout, and `tinyllm route` stands before them with one policy after the
other. The same requests come for each, four at a time: each has the prefix of one of `GROUPS` groups, drawn evenly, and
some tokens of its own. Together both caches hold all prefixes; one alone does not. Every policy has prefixes of its own
tokens, so that none finds what another left, and one request of each group comes before those that are counted.

Prints the share of prompt tokens that were in a cache, how many times that of round robin it is, and the times in
milliseconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import numpy as np

from tinyllm.scale.settings import POLICIES

GROUPS, PREFIX, OWN, REPLY = 20, 256, 24, 4
CACHE = 44 * 64
"""Tokens of a server's cache: half of the prefixes, and a page of their own for four requests."""
AT_A_TIME = 4
TOKENS = 1000, 40_000
"""Those below are special ones, or bytes."""
_COMMAND = (sys.executable, "-c", "from tinyllm.cli.main import main; raise SystemExit(main())")


@dataclass(frozen=True)
class Reply:
    """Seconds to the first token and to the end, and tokens of the prompt: all, and those found in a cache."""

    first: float
    whole: float
    tokens: int
    cached: int


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """A command of tinyllm that serves; its address, once it says that it does."""
    environment = {"TINYLLM_NATIVE_THREADS": "1"} | os.environ
    process = subprocess.Popen(
        [*_COMMAND, *arguments, "--port", "0", "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"tinyllm {arguments[0]} has ended")
        yield line.split()[0]
    finally:
        process.terminate()
        process.wait(60)


def prompts(count: int, policy: str) -> list[list[int]]:
    """One of each group and then some more: the same groups for all policies, of other tokens for each."""
    group = np.concatenate([np.arange(GROUPS), np.random.default_rng(0).integers(0, GROUPS, count)])
    tokens = np.random.default_rng(1 + POLICIES.index(policy))
    prefixes, own = tokens.integers(*TOKENS, (GROUPS, PREFIX)), tokens.integers(*TOKENS, (len(group), OWN))
    return np.concatenate([prefixes[group], own], axis=1).tolist()  # type: ignore[no-any-return]


def ask(client: httpx.Client, model: str, prompt: list[int]) -> Reply:
    """Have a prompt answered, as a stream."""
    body = {"model": model, "prompt": prompt, "max_tokens": REPLY, "temperature": 0, "ignore_eos": True}
    began, times, usage = time.perf_counter(), list[float](), {}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", "/v1/completions", json=body | streamed) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {response.read().decode()}")
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                times.append(time.perf_counter() - began)
                usage = chunk.get("usage") or usage
    return Reply(times[0], times[-1], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])


def measured(policy: str, servers: list[str], count: int) -> list[Reply]:
    """What a policy makes of the requests."""
    with running("route", *servers, "--policy", policy) as url, httpx.Client(base_url=url, timeout=600) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.1)
        model = client.get("/v1/models").json()["data"][0]["id"]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(lambda prompt: ask(client, model, prompt), prompts(count, policy)))[GROUPS:]


def main() -> None:
    """Print a line for each policy."""
    model, count = sys.argv[1] if len(sys.argv) > 1 else "smollm2", int(sys.argv[2]) if len(sys.argv) > 2 else 160
    with ExitStack() as stack:
        serve = ("serve", "--model", model, "--cache-tokens", str(CACHE))
        servers = [stack.enter_context(running(*serve)) for _ in range(2)]
        found = {policy: measured(policy, servers, count) for policy in POLICIES}
    hits = {name: sum(r.cached for r in replies) / sum(r.tokens for r in replies) for name, replies in found.items()}
    turns = hits["round-robin"]
    columns = [f"{of} {p}" for of in ("TTFT", "total") for p in ("p50", "p99")]
    print("policy", "hits", "of round robin's", *columns, sep="\t")
    for policy, replies in found.items():
        seconds = [r.first for r in replies], [r.whole for r in replies]
        times = [f"{1e3 * value:.0f}" for each in seconds for value in np.percentile(each, (50, 99))]
        print(policy, f"{hits[policy]:.1%}", f"{hits[policy] / turns:.2f}" if turns else "-", *times, sep="\t")


if __name__ == "__main__":
    main()
