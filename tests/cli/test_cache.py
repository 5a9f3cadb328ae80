"""Packed weights as people see them: the line when they are written, `tinyllm cache`, and the setting that bounds
them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Cli
from tests.models.conftest import write_gguf
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import default_registry


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where packed weights are kept."""
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


def put(folder: Path, name: str, used: int, layout: str = "rows-1") -> int:
    """Packed weights of a checkpoint, a megabyte and a little more. Gives their bytes."""
    files = PackedFiles(folder, name)
    files.keep({"q": np.zeros(10**6, np.uint8)}, name, "weight", "float32", layout)
    os.utime(files.path(name, "weight", "float32", layout).parent, (used, used))
    return files.written


def listed(cli: Cli) -> dict[str, Any]:
    """What `tinyllm cache --json` says."""
    result = cli("cache", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert isinstance(found, dict)
    return found


def test_a_table_of_checkpoints(cli: Cli, folder: Path) -> None:
    """The last used first; total and bound beside it."""
    nbytes = put(folder, "a.gguf", 86400 * 365), put(folder, "org/b", 86400 * 730, layout="rows-2")
    result = cli("cache")
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert rows[0] == ["CHECKPOINT", "LAYOUT", "FILES", "SIZE", "LAST USED"]
    assert [row[:4] for row in rows[1:]] == [["org/b", "rows-2", "1", "1 MB"], ["a.gguf", "rows-1", "1", "1 MB"]]
    assert rows[2][4].startswith("197") and len(rows[2][4]) == len("1971-01-01 00:00")
    assert str(folder) in result.err and "2 MB of at most 20.0 GB" in result.err and "--clear" in result.err
    found = listed(cli)
    assert (found["bytes"], found["limit"], found["folder"]) == (sum(nbytes), 20 * 10**9, str(folder))
    assert [row["checkpoint"] for row in found["packed"]] == ["org/b", "a.gguf"]


@pytest.mark.parametrize("made", [False, True])
def test_an_empty_folder(cli: Cli, folder: Path, made: bool) -> None:
    if made:
        folder.mkdir(parents=True)
    result = cli("cache")
    assert (result.code, result.out) == (0, "") and "no packed weights; at most 20.0 GB are kept" in result.err
    assert listed(cli)["packed"] == []
    assert cli("cache", "--clear").err == f"{folder}: 0 MB freed\n"


def test_all_are_cleared(cli: Cli, folder: Path) -> None:
    """With what a process that died left behind."""
    put(folder, "a.gguf", 1)
    put(folder, "b.gguf", 2)
    (next(folder.iterdir()) / "x.part").write_bytes(b"0" * 3 * 10**6)
    result = cli("cache", "--clear")
    assert (result.code, result.out, result.err) == (0, "", f"{folder}: 5 MB freed\n")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "{0}/SmolLM2-135M-Instruct.Q4_1.gguf"])
def test_one_checkpoint_is_cleared(cli: Cli, folder: Path, tmp_path: Path, name: str) -> None:
    """In all its layouts, by any name that `--model` takes."""
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_text("")
    put(folder, "org/other", 1)
    for layout in ("rows-1", "rows-2"):
        put(folder, "SmolLM2-135M-Instruct.Q4_1.gguf", 2, layout)
    name = name.format(tmp_path)
    assert len(json.loads(cli("cache", name, "--json").out)["packed"]) == 2
    assert cli("cache", "--clear", name).err == f"{folder}: 2 MB freed\n"
    assert [row["checkpoint"] for row in listed(cli)["packed"]] == ["org/other"]


@pytest.mark.parametrize("options", [(), ("--clear",), ("--json",)])
def test_a_checkpoint_that_is_not_there(cli: Cli, folder: Path, options: tuple[str, ...]) -> None:
    put(folder, "a.gguf", 1)
    result = cli("cache", "b.gguf", *options)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: cache: no packed weights of 'b.gguf'. Did you mean 'a.gguf'?\n"
    assert len(listed(cli)["packed"]) == 1


def test_what_cannot_be_removed(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a.gguf", 1)

    def fail(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("shutil.rmtree", fail)
    result = cli("cache", "--clear")
    assert result.code == 1 and result.err == f"error: cache: {next(folder.iterdir())}: Read-only file system\n"


def _packed(weight: Any, call: Any) -> dict[str, np.ndarray]:
    return {"rows": np.asarray(weight, np.float32)}


def _linear(x: np.ndarray, weight: dict[str, np.ndarray], *, bias: np.ndarray | None = None) -> np.ndarray:
    y = x @ weight["rows"].T
    return y if bias is None else y + bias


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A tiny model, and a kernel for it that keeps what it packs."""
    kernel = Kernel("numpy", "linear", "rows", lambda: _linear, priority=99, prepare=_packed, layout="rows-1")
    default = default_registry().plugins
    monkeypatch.setattr(
        "tinyllm.registry.registry.load_plugins", lambda catalogue: replace(default, kernels=[*default.kernels, kernel])
    )
    return str(write_gguf(tmp_path / "tiny.gguf"))


def test_the_first_load_says_what_it_writes(cli: Cli, folder: Path, model: str) -> None:
    """The second reads it and says nothing."""
    arguments = ("generate", "hello", "--raw", "-n", "1", "-b", "numpy", "-m", model)
    first, second = cli(*arguments), cli(*arguments)
    line = f"packed weights: 0 MB in {folder}; the next start reads them there\n"
    assert first.code == 0 and line in first.err and first.err.replace(line, "").count("\n") == 1
    assert "packed" not in second.err and second.out == first.out
    (row,) = listed(cli)["packed"]
    assert (row["checkpoint"], row["layout"]) == ("tiny.gguf", "rows-1") and row["files"] > 5
    cli("cache", "--clear", "tiny.gguf")
    assert cli(*arguments, "--json").err == "" and listed(cli)["packed"]


def test_a_folder_that_cannot_be_written_to_is_said_once(cli: Cli, folder: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    result = cli("generate", "hello", "--raw", "-n", "1", "-b", "numpy", "-m", model)
    why = "cannot be written: Not a directory; they stay in memory, and the next start packs them again"
    assert result.code == 0 and result.err.splitlines()[0] == f"warning: packed weights: tiny.gguf: {folder}: {why}"
    assert result.err.count("\n") == 2


@pytest.mark.parametrize(
    ("size", "kept", "said"),
    [("0", False, ""), ("1KB", False, "more than cache_size allows, 1000 bytes"), ("1MB", True, "")],
)
def test_the_setting_bounds_the_folder(
    cli: Cli, folder: Path, model: str, monkeypatch: pytest.MonkeyPatch, size: str, kept: bool, said: str
) -> None:
    monkeypatch.setenv("TINYLLM_CACHE_SIZE", size)
    result = cli("generate", "hello", "--raw", "-n", "1", "-b", "numpy", "-m", model)
    assert result.code == 0 and said in result.err and ("warning" in result.err) == bool(said)
    assert bool(listed(cli)["packed"]) == kept and ("packed weights: 0 MB in" in result.err) == kept
