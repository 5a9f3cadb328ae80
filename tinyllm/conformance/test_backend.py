"""Every check of every backend asked for, as a pytest test:
`pytest --pyargs tinyllm.conformance --tinyllm-backend NAME`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tinyllm.conformance.pytest_plugin import PROPERTY, judge_outcome, kept

if TYPE_CHECKING:
    from tinyllm.conformance.checks.check import Check
    from tinyllm.conformance.run import Runner


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each check, under the check's own id."""
    checks: list[Any] = [pytest.param(*row, id=row[0].id) for row in kept(metafunc.config).checks]
    metafunc.parametrize(("check", "runner"), checks)


def test_check(check: Check, runner: Runner, record_property: Callable[[str, object], None]) -> None:
    """Passes, or fails with the message and what to paste."""
    result = runner(check)
    record_property(PROPERTY, result.to_json())
    judge_outcome(result)
