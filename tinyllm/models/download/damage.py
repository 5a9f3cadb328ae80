"""Whether the file of a known model still has the bytes that were downloaded: looked at once, beside the first load."""

from __future__ import annotations

import threading
import warnings
from contextlib import suppress
from pathlib import Path

from tinyllm.errors import CheckpointError, DownloadWarning
from tinyllm.models.checkpoints.files import identity
from tinyllm.models.download.sources import KNOWN, KnownModel, cache_folder, places
from tinyllm.models.download.wheel_download import file_matches


def check_in_background(path: Path) -> threading.Thread | None:
    """Start to compare the SHA-256 of a known model's file with that of the model; None for any other file, and for one
    that was found whole before and was not written since.

    Gives the thread, which outlives a short command to have its say: a `DownloadWarning` where the file is damaged. Its
    size says nothing of that, and a model of a few wrong bytes answers nonsense.
    """
    model = next((model for model in KNOWN.values() if path.name == model.file and path in places(model)), None)
    if model is None or _was_found_whole(model, path):
        return None
    thread = threading.Thread(target=_check, args=(model, path), name="check of a download")
    thread.start()
    return thread


def _check(model: KnownModel, path: Path) -> None:
    # Where it cannot be read, loading says so; where nothing can be kept, it is checked again.
    with suppress(OSError, CheckpointError):
        before = identity([path])
        if not file_matches(path, model.source):
            warnings.warn(
                f"{path}: is damaged, as its SHA-256 is not that of {model.name}; bring it again with: "
                f"tinyllm pull {model.name}",
                DownloadWarning,
                stacklevel=2,
            )
            return
        _mark(model).write_text(before, encoding="utf-8")


def _was_found_whole(model: KnownModel, path: Path) -> bool:
    with suppress(OSError, CheckpointError, ValueError):
        return _mark(model).read_text(encoding="utf-8") == identity([path])
    return False


def _mark(model: KnownModel) -> Path:
    """The file that says which bytes were found whole, by their place, size and time."""
    return cache_folder() / f"{model.file}.checked"
