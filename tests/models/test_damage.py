"""A known model's file is held against its digest beside the first load, and a damaged one is named in one line."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tinyllm.errors import DownloadWarning
from tinyllm.models.download import damage, sources
from tinyllm.models.download.damage import check_in_background
from tinyllm.models.download.sources import KNOWN

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of `smollm2` in a cache folder of its own, whose right bytes are `CONTENT`."""
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "_in_package", lambda model: None)
    model = KNOWN["smollm2"]
    source = replace(model.source, size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(KNOWN, "smollm2", replace(model, source=source))
    path = tmp_path / model.file
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """`told(path)` starts the check, waits for its end, and gives the warnings."""

    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def check(path: Path) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            thread = check_in_background(path)
            if thread is not None:
                thread.join(30)
        assert not failed
        assert all(warning.category is DownloadWarning for warning in caught)
        return [str(warning.message) for warning in caught]

    return check


def test_a_damaged_file_of_the_right_size_is_named_each_time(cached: Path, told: Callable[[Path], list[str]]) -> None:
    cached.write_bytes(CONTENT[:-1] + b"!")
    for _ in range(2):
        (line,) = told(cached)
        assert str(cached) in line and "tinyllm pull smollm2" in line and "\n" not in line


def test_a_whole_file_is_read_once(cached: Path, told: Callable[[Path], list[str]]) -> None:
    assert told(cached) == []
    assert check_in_background(cached) is None
    stat = cached.stat()
    cached.write_bytes(CONTENT[:-1] + b"!")
    os.utime(cached, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert len(told(cached)) == 1


def test_other_files_and_what_cannot_be_kept_are_no_concern(
    cached: Path, told: Callable[[Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / cached.name
    other.parent.mkdir()
    other.write_bytes(b"mine")
    assert check_in_background(other) is None
    monkeypatch.setattr(damage, "_mark", lambda model: tmp_path / "none" / "mark")
    assert told(cached) == told(cached) == []
    cached.unlink()
    assert told(cached) == []
