"""What two replicas on Ray Serve answer is what one server answers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed; pip install 'tinyllm[ray]'")

from tests.scale.ray_fakes import CPUS, eventually, plan, serving
from tests.server.test_api import (
    CHAT,
    TEXT,
    error,
    test_a_stop_string_ends_a_reply,
    test_a_stream_says_what_the_whole_reply_says,
    test_choices_have_seeds_of_their_own,
    test_completions_stream_what_they_say,
    test_logprobs_of_a_completion,
    test_prompts_of_a_list_get_what_each_gets_alone,
    test_settings_reach_the_sampler,
)
from tinyllm.scale.deploy.scaling import Scaling

__all__ = [
    "test_a_stop_string_ends_a_reply",
    "test_a_stream_says_what_the_whole_reply_says",
    "test_choices_have_seeds_of_their_own",
    "test_completions_stream_what_they_say",
    "test_logprobs_of_a_completion",
    "test_prompts_of_a_list_get_what_each_gets_alone",
    "test_settings_reach_the_sampler",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(ray: None) -> Iterator[str]:
    with serving(plan(), Scaling(2, cpus=CPUS)) as url:
        yield url


@pytest.fixture
def http(two: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=two, timeout=20) as client:
        yield client


def test_errors_are_those_of_a_server(http: httpx.Client) -> None:
    for status, path, body in [
        (404, "/nowhere", CHAT),
        (404, "/v1/completions", TEXT | {"model": "other"}),
        (400, "/v1/completions", TEXT | {"temperature": "hot"}),
        (413, "/v1/completions", TEXT | {"prompt": "x" * (5 << 20)}),
    ]:
        response = http.post(path, json=body)
        assert response.status_code == status and error(response)["message"]
    response = http.post("/v1/completions", content=b"{", headers={"content-type": "application/json"})
    assert response.status_code == 400 and error(response)["message"].startswith("body: expected JSON")
    response = http.get("/v1/models", headers={"x-request-id": "mine"})
    assert response.headers.get_list("x-request-id") == ["mine"]


def test_a_client_that_goes_away_ends_its_request(http: httpx.Client) -> None:
    body = TEXT | {"max_tokens": 2900, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as response:
        name = response.headers["x-replica"]
        next(response.iter_lines())

    def idle() -> bool:
        answer = http.get("/status")
        return answer.headers["x-replica"] == name and answer.json()["running"] == answer.json()["pages_held"] == 0

    assert eventually(idle)
