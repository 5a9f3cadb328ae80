"""The machine's limits are measured once, and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import registry
from tinyllm.bench import kept_limits as module
from tinyllm.bench.kept_limits import LimitsFileError, kept_limits, limits_file
from tinyllm.bench.limits import Limits
from tinyllm.errors import TinyllmError


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The devices that were measured so far, in a cache folder of one's own."""
    devices: list[str] = []

    def add(asked: Any, known: Any, found: dict[str, list[Limits]], on_step: Any) -> list[str]:
        ((device, limits),) = found.items()
        devices.append(device)
        limits += [Limits(10.0, 300.0), Limits(20.0, 200.0)] if device != "none" else []
        return ["numpy: its linear is wrong"]

    monkeypatch.setattr(module, "add_others", add)
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "cache"))
    return devices


def test_they_are_measured_once_for_each_device_and_machine(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert kept_limits(registry(), "cpu") == kept_limits(registry(), "gpu") == Limits(20.0, 300.0)
    assert measured == ["cpu", "gpu"]
    monkeypatch.setattr(module, "machine", lambda: {"processor": "another", "cores": 2})
    kept_limits(registry(), "cpu")
    assert measured == ["cpu", "gpu", "cpu"] and len(json.loads(limits_file().read_text())) == 3
    limits_file().unlink()
    kept_limits(registry(), "cpu")
    assert len(measured) == 4


def test_a_machine_that_cannot_be_measured_is_told_and_not_kept(measured: list[str]) -> None:
    with pytest.raises(TinyllmError, match=r"limits of none: no backend could be measured \(numpy: its linear is"):
        kept_limits(registry(), "none")
    assert not limits_file().exists()


def test_a_folder_that_cannot_be_written_costs_another_measurement(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refused)
    assert kept_limits(registry(), "cpu") == kept_limits(registry(), "cpu")
    assert measured == ["cpu", "cpu"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"a": 1}',
        '{"a": {"gb_s": 1}}',
        '{"a": {"gb_s": 1, "gflop_s": "2"}}',
        '{"a": {"gb_s": 0, "gflop_s": 1}}',
    ],
)
def test_a_file_that_is_none_is_told(measured: list[str], text: str) -> None:
    limits_file().parent.mkdir()
    limits_file().write_text(text)
    with pytest.raises(LimitsFileError, match=r"limits\.json: expected gb_s and gflop_s by machine, got"):
        kept_limits(registry(), "cpu")
    assert not measured
