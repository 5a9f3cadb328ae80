"""GGUF files that the gguf package cut in parts: any part opens all, and what does not fit together is refused."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.models.conftest import write_gguf
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint

PARTS = 4


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    return cut(tmp_path / "m.gguf", monkeypatch)


def cut(path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[Path]:
    """The parts of a tiny model, of six tensors each."""
    with monkeypatch.context() as patched:
        patched.setattr(gguf, "GGUFWriter", functools.partial(gguf.GGUFWriter, split_max_tensors=6))
        write_gguf(path, **more)
    found = sorted(path.parent.glob(f"{path.stem}-*.gguf"))
    assert len(found) == PARTS
    return found


def test_any_part_opens_all(parts: list[Path], tmp_path: Path) -> None:
    whole = open_checkpoint(write_gguf(tmp_path / "whole.gguf"))
    for part in parts:
        checkpoint = open_checkpoint(part)
        assert set(checkpoint.tensor_names()) == set(whole.tensor_names())
        for name in whole.tensor_names():
            assert checkpoint.info(name).type == whole.info(name).type
            np.testing.assert_array_equal(checkpoint.read(name), whole.read(name))
        assert checkpoint.tokenizer().encode("the") == whole.tokenizer().encode("the")
        checkpoint.release()
        name = whole.tensor_names()[-1]
        np.testing.assert_array_equal(checkpoint.read(name), whole.read(name))


def test_each_part_counts_for_the_identity(parts: list[Path]) -> None:
    """Packed forms of it are kept by what the identity says."""
    before = open_checkpoint(parts[0]).identity
    parts[2].touch()
    assert open_checkpoint(parts[0]).identity != before


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[2].unlink()
    with pytest.raises(CheckpointError, match=r"m-00003-of-00004\.gguf: expected this part beside m-00002-of"):
        open_checkpoint(parts[1])


def test_parts_that_are_not_where_their_names_say(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(parts[1], parts[2])
    with pytest.raises(CheckpointError, match=r"m-00003-of-00004\.gguf: split\.no: expected 2, .*, got 1"):
        open_checkpoint(parts[0])
    alone = tmp_path / "alone.gguf"
    shutil.copy(parts[0], alone)
    with pytest.raises(CheckpointError, match=r"split\.count: expected a name that ends in -00001-of-00004\.gguf"):
        open_checkpoint(alone)


def test_parts_of_two_files_are_not_one(parts: list[Path]) -> None:
    """A part with a tensor that another part has, and fewer tensors than there should be."""
    swap = gguf.GGUFReader(parts[2], "r+")
    swap.fields["split.no"].parts[-1][0] = 1
    swap.data.flush()
    shutil.copy(parts[2], parts[1])
    again = gguf.GGUFReader(parts[2], "r+")
    again.fields["split.no"].parts[-1][0] = 2
    again.data.flush()
    with pytest.raises(CheckpointError, match=r"m-00003-of-00004\.gguf: tensor '.*' is in two parts"):
        open_checkpoint(parts[0])


def test_all_tensors_are_there(parts: list[Path]) -> None:
    first = gguf.GGUFReader(parts[0], "r+")
    first.fields["split.tensors.count"].parts[-1][0] = 99
    first.data.flush()
    with pytest.raises(CheckpointError, match=r"split\.tensors\.count: expected the \d+ tensors of all parts, got 99"):
        open_checkpoint(parts[0])
