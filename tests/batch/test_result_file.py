"""Output: what is on the disk is done, half a line is not, and nothing of somebody else's is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.batch.files import read, result, write
from tinyllm.batch.result_file import ResultFile, same_file
from tinyllm.errors import InvalidInputError, TinyllmError

HALF = json.dumps(result("half")).encode()


def test_what_is_there_is_done(tmp_path: Path) -> None:
    """Replies, failures and malformed lines alike; the latter by their number."""
    malformed = result(
        None, response=None, error={"code": "invalid_json_line", "message": "x", "param": None, "line": 7}
    )
    path = write(tmp_path / "out.jsonl", result("a"), result("b", 400), malformed)
    file = ResultFile(path)
    assert file.done == {"a", "b", 7} and file.failed == 2
    file.add(result("c"))
    file.close()
    assert [entry["custom_id"] for entry in read(path)] == ["a", "b", None, "c"]


@pytest.mark.parametrize("cut", [1, 5, 18, 40, len(HALF) - 1, len(HALF)])
def test_half_a_line_is_cut_off(cut: int, tmp_path: Path) -> None:
    """Wherever it broke off, even right before its end; what comes next is whole."""
    path = write(tmp_path / "out.jsonl", result("a"))
    path.write_bytes(path.read_bytes() + HALF[:cut])
    file = ResultFile(path)
    assert file.done == {"a"}
    file.add(result("half"))
    file.close()
    assert [entry["custom_id"] for entry in read(path)] == ["a", "half"]


def test_zeros_that_a_loss_of_power_left_are_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "out.jsonl", result("a"))
    path.write_bytes(path.read_bytes() + b"\0" * 50)
    ResultFile(path).close()
    assert len(read(path)) == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"notes without an end", 1),
        (b"some text\n", 1),
        (b'{"custom_id": "a"}\n', 1),
        (json.dumps(result("a")).encode() + b"\n" + json.dumps(result(None)).encode() + b"\n", 2),
        (json.dumps(result("a")).encode() + b"\nmore", 2),
        (b"\xff\n", 1),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(content: bytes, line: int, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(
        InvalidInputError, match=rf"out.jsonl: line {line}: expected the result of a batch; name a new file"
    ):
        ResultFile(path)
    assert path.read_bytes() == content


def test_a_result_that_is_there_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="line 3: the result of 'a' is there twice, on line 1 as well"):
        ResultFile(write(tmp_path / "out.jsonl", result("a"), result("b"), result("a")))


def test_two_batches_do_not_write_one_file(tmp_path: Path) -> None:
    """The second is refused; once the first is done the file is free."""
    first = ResultFile(tmp_path / "out.jsonl")
    with pytest.raises(TinyllmError, match="another batch writes to it"):
        ResultFile(tmp_path / "out.jsonl")
    first.close()
    ResultFile(tmp_path / "out.jsonl").close()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected a file that can be read again"):
        ResultFile(Path(os.devnull))
    with pytest.raises(TinyllmError, match="cannot be written: No such file or directory"):
        ResultFile(tmp_path / "none" / "out.jsonl")


def test_a_full_disk_ends_it_and_is_resumed(tmp_path: Path) -> None:
    """The line that did not fit is half there, and is cut off by the next run."""
    path = tmp_path / "out.jsonl"
    file = ResultFile(path)
    file.add(result("a"))
    real = file._file

    class Full:
        def __init__(self) -> None:
            self.calls = 0

        def write(self, data: bytes) -> int:
            self.calls += 1
            if self.calls > 1:
                raise OSError(28, "No space left on device")
            return real.write(data[:20])

    file._file = Full()  # type: ignore[assignment]
    with pytest.raises(TinyllmError, match="cannot be written: No space left on device"):
        file.add(result("b"))
    real.close()
    assert not path.read_bytes().endswith(b"\n")
    again = ResultFile(path)
    assert again.done == {"a"}
    again.close()


def test_every_result_is_in_the_file_at_once_and_on_the_disk_within_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, synced = [0.0], []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(now[0]))
    file = ResultFile(tmp_path / "out.jsonl", clock=lambda: now[0])
    for number in range(25):
        file.add(result(str(number)))
        assert len(read(tmp_path / "out.jsonl")) == number + 1
        now[0] += 0.1
    assert len(synced) == 2
    file.close()
    assert len(synced) == 3


def test_ordering_keeps_every_byte(tmp_path: Path) -> None:
    """The order of the keys, each line as it was; the file's rights and a link to it stay."""
    entries: list[dict[str, Any]] = [
        result("b"),
        result(None, response=None, error={"line": 3}),
        result("a\ud800"),
        result("ü"),
    ]
    real, link = write(tmp_path / "real.jsonl", *entries), tmp_path / "out.jsonl"
    real.chmod(0o640)
    link.symlink_to(real)
    lines = real.read_bytes().splitlines()
    file = ResultFile(link)
    file.order(["a\ud800", "not done", "b", 3, "ü"])
    file.close()
    assert real.read_bytes().splitlines() == [lines[2], lines[0], lines[1], lines[3]]
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "real.jsonl"]


def test_text_that_utf8_cannot_say(tmp_path: Path) -> None:
    """Half a surrogate pair comes back as it went in; other text is written as it reads."""
    file = ResultFile(tmp_path / "out.jsonl")
    for custom_id in ("\ud800", "größe"):
        file.add(result(custom_id))
    file.close()
    assert [entry["custom_id"] for entry in read(tmp_path / "out.jsonl")] == ["\ud800", "größe"]
    assert "größe" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_one_file_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    os.link(tmp_path / "a", tmp_path / "c")
    assert all(same_file(tmp_path / "a", tmp_path / n) for n in ("a", "b", "c", "../" + tmp_path.name + "/a"))
    assert same_file(tmp_path / "none", tmp_path / "none") and not same_file(tmp_path / "a", tmp_path / "none")
