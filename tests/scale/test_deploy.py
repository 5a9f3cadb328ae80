"""Four replicas on Ray Serve: who gets which request, and what comes of those that one takes with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed; pip install 'tinyllm[ray]'")

from tests.scale.ray_fakes import CPUS, eventually, plan, replicas, reply, serving
from tests.server.test_api import TEXT
from tinyllm.scale.deploy.scaling import Scaling

pytestmark = pytest.mark.slow
GROUPS, ROUNDS = 7, 6


@pytest.fixture(scope="module")
def round_robin_hits(ray: None) -> int:
    with serving(plan(), Scaling(4, cpus=CPUS), "round-robin") as url:
        return hits(url)


@pytest.fixture(scope="module")
def four(ray: None, round_robin_hits: int) -> Iterator[str]:
    with serving(plan(0.02, max_running=2), Scaling(4, cpus=CPUS)) as url:
        yield url


def hits(url: str) -> int:
    """Prompt tokens that were found in caches: some conversations by turns, each with a beginning of its own."""
    cached = 0
    with httpx.Client(base_url=url, timeout=20) as client:
        for turn in range(ROUNDS):
            for group in range(GROUPS):
                body = TEXT | {"prompt": f"group {group} " * 100 + f"turn {turn}", "max_tokens": 1}
                usage = client.post("/v1/completions", json=body).json()["usage"]
                cached += usage["prompt_tokens_details"]["cached_tokens"]
    return cached


def test_warm_replicas_have_the_prefix(four: str, round_robin_hits: int) -> None:
    """The router finds more of each prompt computed already than round robin does."""
    assert hits(four) >= 1.8 * round_robin_hits > 0


def test_a_replica_that_is_killed_takes_only_streams_that_had_begun(four: str) -> None:
    """Four replicas with more requests than they write at a time: the dead one's go to others, also those that it was
    writing whole replies to. A stream that had begun ends with an error, and another replica comes in its place."""
    there = {process.pid for process in replicas()}
    assert len(there) == 4
    with ThreadPoolExecutor(40) as pool:
        requests = [pool.submit(reply, four, number) for number in range(40)]
        assert eventually(lambda: sum(request.done() for request in requests) >= 4)
        replicas()[0].kill()
        told = [request.result() for request in requests]
    broken = [(streamed, text, error) for streamed, text, error in told if error is not None]
    assert all(len(text) == 40 for _, text, error in told if error is None)
    assert 1 <= len(broken) <= 2 and all(streamed and text for streamed, text, _ in broken)
    assert {error["code"] for _, _, error in broken if error} == {"replica_gone"}
    assert eventually(lambda: len(replicas()) == 4 and {process.pid for process in replicas()} != there)
