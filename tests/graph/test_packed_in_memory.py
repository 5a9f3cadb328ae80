"""Packed weights that cannot be kept in files: they stay in memory, one line says why, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.graph.test_packed_files import ARRAYS, KEY, same
from tinyllm.errors import CacheWarning
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.packed_format import ALIGNMENT, in_memory


@pytest.fixture
def files(tmp_path: Path) -> PackedFiles:
    return PackedFiles(tmp_path / "packed")


@pytest.mark.parametrize(
    "array", [*ARRAYS.values(), np.ones(()), np.eye(5)[::2].T, np.ones((3, 2), ml_dtypes.bfloat16), np.zeros((0, 3))]
)
def test_what_stays_in_memory_is_as_if_it_were_mapped(array: np.ndarray) -> None:
    """Whatever memory it came in, and apart from it."""
    (copy,) = in_memory({"it": array}).values()
    assert same({"it": copy}, {"it": array}) and (not copy.size or copy.ctypes.data % ALIGNMENT == 0)
    assert not copy.flags.writeable and not np.shares_memory(copy, array)


def kept_in_memory(files: PackedFiles, why: str, *, name: str = "") -> bool:
    """Whether a packed form comes back right and in memory, and one line says why."""
    with pytest.warns(CacheWarning) as said:
        kept = [files.keep(ARRAYS, *KEY[:1], weight, *KEY[2:]) for weight in ("a", "b")]
    (line,) = (str(warning.message) for warning in said)
    tail = "they stay in memory, and the next start packs them again"
    assert line == f"packed weights: {name}{files.folder}: {why}; {tail}"
    return all(same(arrays, ARRAYS) and not array.flags.writeable for arrays in kept for array in arrays.values())


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "packed"):
        assert kept_in_memory(PackedFiles(folder, "a model"), "cannot be written: Not a directory", name="a model: ")
        assert PackedFiles(folder).find(*KEY) is None


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more(files: PackedFiles, monkeypatch: pytest.MonkeyPatch, step: str, number: int) -> None:
    """Whenever it says so nothing is left behind, and what is there already is read."""
    files.keep(ARRAYS, *KEY)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile if step == "mkstemp" else os, step, full)
    assert kept_in_memory(files, f"cannot be written: {os.strerror(number)}")
    assert [file for file in files.folder.rglob("*") if file.is_file()] == [files.path(*KEY)]
    assert same(files.find(*KEY), ARRAYS)


def test_a_disk_that_is_full_in_the_middle_of_a_file(files: PackedFiles) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.warns(CacheWarning, match="cannot be written: File too large"):
            kept = files.keep({"big": np.ones(1 << 18)}, *KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert same(kept, {"big": np.ones(1 << 18)})
    assert not [file for file in files.folder.rglob("*") if file.is_file()]


def test_after_a_failure_nothing_more_is_tried(files: PackedFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model would otherwise be written to a full disk weight by weight."""
    calls: list[int] = []

    def full(handle: int) -> None:
        calls.append(handle)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert kept_in_memory(files, "cannot be written: No space left on device") and len(calls) == 1


def test_a_folder_that_is_cleared_meanwhile(files: PackedFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the writing and the reading."""
    monkeypatch.setattr(files, "find", lambda *key: None)
    assert kept_in_memory(files, "was changed while it was written")
