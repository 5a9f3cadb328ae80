"""Requests made from the server's own schema, right ones and wrong ones: none ends with a 5xx, and no page is lost.

`TINYLLM_SCHEMA_EXAMPLES=2000` asks for so many per address that takes a body.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.server.fakes import Live, make_model, serving

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("TINYLLM_SCHEMA_EXAMPLES", "60"))


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with serving(make_model(max_waiting=500)) as live:
        yield live
        assert live.settled()


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/v1/models/{model}"]
)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_breaks_the_server(server: Live, path: str, mode: str) -> None:
    """Bodies of the schema's form are answered or refused, others are refused; each answer has a status that the schema
    names."""
    from schemathesis import GenerationMode
    from schemathesis.checks import content_type_conformance, status_code_conformance

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema[path]["GET" if "{" in path else "POST"]
    if "{" in path and mode == "negative":
        pytest.skip("every text is a name")
    chosen = GenerationMode.POSITIVE if mode == "positive" else GenerationMode.NEGATIVE
    statuses: Counter[int] = Counter()

    @seed(0)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=chosen), limit=st.integers(1, 20))
    def run(case: Any, limit: int) -> None:
        if mode == "positive" and path.startswith("/v1/c"):  # so that many get as far as the engine
            case.body |= {"max_tokens": limit, "model": "fake"}
            case.body.pop("max_completion_tokens", None)
        response = case.call(timeout=30)
        statuses[response.status_code] += 1
        assert response.status_code < 500, response.text
        case.validate_response(response, checks=[status_code_conformance, content_type_conformance])

    run()
    print(path, mode, dict(statuses))
    # not all: some bodies that schemathesis takes for wrong are right
    assert mode == "positive" or statuses[400] > 0.9 * EXAMPLES
    assert server.settled()
