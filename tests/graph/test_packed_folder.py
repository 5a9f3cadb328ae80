"""The folder of packed weights: what it holds, and that it stays within its bound."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tinyllm.errors import CacheWarning
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.packed_folder import contents, make_room, remove

WEIGHT = {"q": np.zeros(10_000, np.uint8)}
SIZE = 10_000 + 256
"""Bytes of its file, header included, at most."""


def put(folder: Path, checkpoint: str, *, used: float, weights: int = 1, layout: str = "rows-1") -> Path:
    """Packed weights that were used last at this time. Gives their folder."""
    files = PackedFiles(folder, f"{checkpoint}.gguf")
    for number in range(weights):
        files.keep(WEIGHT, checkpoint, f"{number}.weight", "float32", layout)
    made = files.path(checkpoint, "", "", layout).parent
    os.utime(made, (used, used))
    return made


def names(folder: Path) -> list[str]:
    """The checkpoints in the folder, that which was not used for the longest time first."""
    return [packed.names()[0].removesuffix(".gguf") for packed in contents(folder)]


def total(folder: Path) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_contents(tmp_path: Path) -> None:
    """Each checkpoint and layout with its files, bytes and time; the oldest first."""
    put(tmp_path, "b", used=200, weights=3)
    put(tmp_path, "a", used=300)
    put(tmp_path, "a", used=100, layout="rows-2")
    found = contents(tmp_path)
    assert [packed.names() for packed in found] == [("a.gguf", "rows-2"), ("b.gguf", "rows-1"), ("a.gguf", "rows-1")]
    assert [(packed.files, packed.used) for packed in found] == [(1, 100), (3, 200), (1, 300)]
    assert sum(packed.nbytes for packed in found) == total(tmp_path)


def test_no_folder_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert contents(tmp_path / "none") == contents(tmp_path / "file") == contents(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"garbage", b"tinyllm packed 1\n", b"tinyllm packed 1\n" + b"\xff" * 99])
def test_what_cannot_be_read_is_listed_and_removed(tmp_path: Path, content: bytes) -> None:
    """By the name of its folder, or that of a file beside it that can be read."""
    folder = put(tmp_path, "a", used=1)
    (folder / "0.packed").write_bytes(content)
    assert names(tmp_path) == ["a"]
    for file in folder.iterdir():
        file.write_bytes(content)
    (packed,) = contents(tmp_path)
    assert packed.names() == (folder.name, "")
    remove(packed)
    remove(packed)  # another process may have been faster
    assert not folder.exists()


def test_unfinished_files_count_and_go(tmp_path: Path) -> None:
    """A process that was killed while it wrote leaves one."""
    folder = put(tmp_path, "a", used=1)
    (folder / "x.part").write_bytes(b"0" * 1000)
    (packed,) = contents(tmp_path)
    assert packed.files == 1 and packed.nbytes == total(tmp_path) > 11_000
    remove(packed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("limit", "mine", "left"),
    [
        (9 * SIZE, "", "cab"),
        (4 * SIZE, "", "cab"),
        (3 * SIZE, "", "ab"),
        (2 * SIZE, "", "b"),
        (3 * SIZE, "c", "cb"),
        (2 * SIZE, "c", "c"),
        (2 * SIZE, "ca", "cab"),
        (SIZE // 2, "", "cab"),
    ],
)
def test_what_was_not_used_for_the_longest_time_goes_first(
    tmp_path: Path, limit: int, mine: Iterable[str], left: str
) -> None:
    """No more than needed, nothing of `mine`, and nothing at all where it would not help."""
    made = {name: put(tmp_path, name, used=time) for name, time in (("c", 1), ("a", 2), ("b", 3))}
    free = make_room(tmp_path, SIZE, limit, [made[name] for name in mine])
    assert names(tmp_path) == list(left)
    assert free == limit - total(tmp_path)


def test_a_use_is_a_touch(tmp_path: Path) -> None:
    """Reading makes a checkpoint the last to go."""
    put(tmp_path, "a", used=1)
    put(tmp_path, "b", used=2)
    assert PackedFiles(tmp_path).find("a", "0.weight", "float32", "rows-1")
    assert names(tmp_path) == ["b", "a"]


def test_the_bound_holds(tmp_path: Path) -> None:
    """Whatever is written, by several who look at the folder in turn; what was loaded last is there."""
    limit = 5 * SIZE
    for number in range(12):
        files = PackedFiles(tmp_path, str(number), limit)
        for weight in range(number % 3 + 1):
            files.keep(WEIGHT, str(number), str(weight), "float32", "rows-1")
            assert total(tmp_path) <= limit
            assert files.find(str(number), str(weight), "float32", "rows-1")
    assert total(tmp_path) > limit // 2


def test_two_checkpoints_of_one_process_do_not_push_out_one_another_needlessly(tmp_path: Path) -> None:
    first, second = (PackedFiles(tmp_path, name, 5 * SIZE) for name in "ab")
    for number in range(2):
        for files in (first, second):
            files.keep(WEIGHT, files.name, str(number), "float32", "rows-1")
    assert sorted(names(tmp_path)) == ["a", "b"] and sum(packed.files for packed in contents(tmp_path)) == 4


def test_what_is_larger_than_the_bound_stays_in_memory(tmp_path: Path) -> None:
    """As far as it goes past it, with a line; others are not removed in vain, and what is there is read."""
    put(tmp_path, "other", used=1)
    limit = 2 * SIZE
    big = {"q": np.arange(3 * SIZE, dtype=np.uint8)}
    files = PackedFiles(tmp_path, "a.gguf", limit)
    why = rf"^packed weights: a\.gguf: .*: more than cache_size allows, {limit} bytes; they stay in memory"
    with pytest.warns(CacheWarning, match=why) as said:
        for weight in ("a", "b"):
            kept = files.keep(big, "a", weight, "float32", "rows-1")
            assert (kept["q"] == big["q"]).all() and not kept["q"].flags.writeable
        assert names(tmp_path) == ["other"]
        assert files.keep(WEIGHT, "a", "small", "float32", "rows-1") and names(tmp_path) == ["other", "a"]
    assert len(said) == 1 and files.find("a", "small", "float32", "rows-1")


def test_mapped_files_may_be_removed(tmp_path: Path) -> None:
    """Who has them goes on reading them."""
    arrays = {"q": np.arange(5000)}
    kept = PackedFiles(tmp_path).keep(arrays, "a", "weight", "float32", "rows-1")
    (packed,) = contents(tmp_path)
    remove(packed)
    assert not list(tmp_path.iterdir()) and (kept["q"] == arrays["q"]).all()
