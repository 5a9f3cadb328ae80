"""One fake server for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server.fakes import Live, serving


@pytest.fixture(scope="package")
def live() -> Iterator[Live]:
    with serving() as live:
        yield live
        assert live.settled(), "pages are held though nothing runs"


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=20) as client:
        yield client
