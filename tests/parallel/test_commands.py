"""The commands that load a model hand on among how many processes it is shared out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.batch.files import request, write
from tinyllm.cli import session
from tinyllm.cli.main import main
from tinyllm.errors import TinyllmError


@pytest.mark.parametrize("command", ["generate", "chat", "batch"])
def test_a_command_says_how_many(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def load(*arguments: Any, tensor_parallel: int = 1, **more: Any) -> None:
        asked.append(tensor_parallel)
        raise TinyllmError("seen")

    monkeypatch.setattr(session, "load_model", load)
    requests = str(write(tmp_path / "in.jsonl", request("one")))
    more = {"generate": ["a prompt"], "chat": [], "batch": [requests, "-o", str(tmp_path / "out.jsonl")]}
    assert main([command, *more[command], "--tensor-parallel", "3"]) == 1
    assert asked == [3]


def test_a_launchers_variables_that_are_half_set_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["generate", "--tensor-parallel", "2", "a prompt"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: WORLD_SIZE, MASTER_ADDR, MASTER_PORT: expected a value, as RANK has one: ")
