"""The number of replicas follows the load."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed; pip install 'tinyllm[ray]'")

from tests.scale.ray_fakes import CPUS, eventually, plan, replicas, reply, serving
from tinyllm.scale.deploy.scaling import Scaling

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`look_back_period_s`")]  # short, for a test


def test_replicas_come_and_go_with_the_load(ray: None) -> None:
    """And no request is lost when one goes."""
    scaling = Scaling(least=1, most=2, target=2, cpus=CPUS, up_seconds=1, down_seconds=1, window=2)
    with serving(plan(0.02, max_running=4), scaling) as url, ThreadPoolExecutor(12) as pool:
        assert eventually(lambda: len(replicas()) == 1)
        requests = [pool.submit(reply, url, number) for number in range(80)]
        assert eventually(lambda: len(replicas()) == 2)
        assert all(len(text) == 40 and error is None for _, text, error in (r.result() for r in requests))
        assert reply(url, 0)[1] and eventually(lambda: len(replicas()) == 1)
