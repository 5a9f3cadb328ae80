"""Runs the command line inside the test's process, with a fake model where a test asks for one."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.cli.fake_model import load_fake
from tinyllm.cli import session
from tinyllm.cli.main import main
from tinyllm.registry.registry import default_registry


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("ops", "--json")` gives exit code, stdout and stderr; settings are read anew at each call."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        default_registry.cache_clear()
        capfd.readouterr()
        try:
            code = main(arguments)
        finally:
            default_registry.cache_clear()
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake model in place of a real one."""
    monkeypatch.setattr(session, "load_model", load_fake)
