"""Input: what is refused before anything starts, and what becomes the result of its own line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.batch.files import CHAT, TEXT, request, write
from tinyllm.batch import batch_file
from tinyllm.batch.batch_file import BatchFile
from tinyllm.errors import InvalidInputError

URLS = (CHAT, TEXT)
GOOD = request("good")


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != name}


@pytest.mark.parametrize(
    ("line", "custom_id", "code", "message"),
    [
        (b"{", None, "invalid_json_line", "^expected JSON, got: .* at column 2$"),
        (b'{"custom_id": "x\xff"}', None, "invalid_json_line", "expected UTF-8, got byte 0xff at position 16"),
        (b"[1]", None, "invalid_json_line", "expected an object, got list"),
        (b"[" * 100_000, None, "invalid_json_line", "expected lists and objects at most 100 deep, got more"),
        (
            without("custom_id"),
            None,
            "invalid_request",
            "^custom_id: missing; a request has custom_id, method, url, body$",
        ),
        (without("body"), "good", "invalid_request", "^body: missing"),
        (GOOD | {"priority": 1}, "good", "invalid_request", "^priority: unknown"),
        (GOOD | {"custom_id": 7}, None, "invalid_request", "^custom_id: expected some text, got 7$"),
        (GOOD | {"custom_id": ""}, None, "invalid_request", "^custom_id: expected some text, got ''$"),
        (GOOD | {"method": "GET"}, "good", "invalid_request", "^method: expected 'POST', got 'GET'$"),
        (
            GOOD | {"url": "/v1/embeddings"},
            "good",
            "invalid_request",
            "^url: expected one of /v1/chat/completions, /v1/.*, got '/v1/",
        ),
        (GOOD | {"url": [CHAT]}, "good", "invalid_request", "^url: expected one of"),
        (GOOD | {"body": []}, "good", "invalid_request", "^body: expected an object, got list$"),
    ],
)
def test_a_malformed_line_keeps_its_number_and_stops_nothing(
    line: Any, custom_id: str | None, code: str, message: str, tmp_path: Path
) -> None:
    file = BatchFile(write(tmp_path / "in.jsonl", request("first"), b"  ", line, request("last")), URLS)
    assert [entry.custom_id for entry in file.lines] == ["first", custom_id, "last"]
    assert [entry.number for entry in file.lines] == [1, 3, 4] and [bool(entry.problem) for entry in file.lines] == [
        False,
        True,
        False,
    ]
    found = file.lines[1]
    assert found.problem is not None and found.problem[0] == code and found.key == (custom_id or 3)
    assert re.search(message, found.problem[1]), found.problem


def test_bodies_are_read_as_needed(tmp_path: Path) -> None:
    """In any order, behind a byte order mark, without a last line feed, with text that Unicode takes for line ends."""
    odd = request("odd\u2028\x85é", TEXT, prompt="a\u2029b")
    path = write(tmp_path / "in.jsonl", request("first"), odd, request("last"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip(b"\n"))
    file = BatchFile(path, URLS)
    assert file.body(file.lines[2]) == request("last")["body"] and file.body(file.lines[0]) == request("first")["body"]
    assert file.body(file.lines[1])["prompt"] == "a\u2029b" and file.lines[1].custom_id == odd["custom_id"]


def test_a_custom_id_that_is_there_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    """Also where one of the two is malformed otherwise."""
    for twin in (request("b"), request("b") | {"method": "GET"}):
        with pytest.raises(
            InvalidInputError, match=r"in.jsonl: line 4: custom_id: expected one .*, got 'b', which line 2 has"
        ):
            BatchFile(write(tmp_path / "in.jsonl", request("a"), request("b"), b"", twin), URLS)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidInputError, match=f"cannot be read: {message}"):
            BatchFile(path, URLS)
    with pytest.raises(InvalidInputError, match="expected a request on each line, got an empty file"):
        BatchFile(write(tmp_path / "in.jsonl", b"", b" "), URLS)


def test_a_file_that_changes_meanwhile_gives_no_wrong_body(tmp_path: Path) -> None:
    file = BatchFile(write(tmp_path / "in.jsonl", request("a"), request("b")), URLS)
    write(tmp_path / "in.jsonl", request("b"), request("a"))
    with pytest.raises(InvalidInputError, match="line 1: was changed while the batch ran"):
        file.body(file.lines[0])


@pytest.mark.parametrize("after", [b"", b"\n", b"\n" + json.dumps(request("next")).encode()])
def test_a_line_that_is_too_long_costs_that_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bytes
) -> None:
    monkeypatch.setattr(batch_file, "MOST_LINE", 400)
    path = write(tmp_path / "in.jsonl", GOOD, b"x" * 2000 + after)
    file = BatchFile(path, URLS)
    numbers = [1, 2, 3] if after.strip() else [1, 2]
    assert [line.number for line in file.lines] == numbers
    code, message = file.lines[1].problem or ("", "")
    assert code == "invalid_json_line" and message.startswith("expected at most")
    for line in file.lines[2:]:
        assert line.problem is None and file.body(line) == request("next")["body"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "at most 100 deep"),
        (b"[" + b"1," * 250_001 + b"1]", "250000 values"),
    ],
)
def test_a_line_holds_no_more_than_the_body_of_a_request(tmp_path: Path, line: bytes, said: str) -> None:
    first, second = BatchFile(write(tmp_path / "in.jsonl", line, request("b")), URLS).lines
    assert first.problem is not None and said in first.problem[1] and second.problem is None


def test_a_pipe_is_no_file_of_requests(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInputError, match="expected a file that can be read again, got something else"):
        BatchFile(tmp_path / "pipe", URLS)
