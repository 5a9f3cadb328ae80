"""A Ray of this machine for all tests that need one; where the library is missing they are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def ray() -> Iterator[None]:
    from tests.scale.ray_fakes import ray_here

    with ray_here(4):
        yield
