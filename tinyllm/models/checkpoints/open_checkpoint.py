"""Opens a checkpoint of any format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tinyllm.errors import CheckpointError, ModelNotFoundError
from tinyllm.models.checkpoints.checkpoint import Checkpoint
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.families.family import Family


def open_checkpoint(path: Path, families: Sequence[Family] = FAMILIES) -> Checkpoint:
    """A folder in Hugging Face form, a `.safetensors` file inside one, or a `.gguf` file of one of the families.

    Raises `ModelNotFoundError` where there is nothing, `CheckpointError` for a file that cannot be understood.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise ModelNotFoundError(f"{path}: no such file or folder")
    if path.suffix == ".gguf":
        from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint

        return GgufCheckpoint(path, families)
    if path.is_dir() or path.suffix == ".safetensors":
        from tinyllm.models.checkpoints.safetensors import SafetensorsCheckpoint

        return SafetensorsCheckpoint(path)
    raise CheckpointError(
        f"{path}: expected a folder, a .gguf or a .safetensors file, got {path.suffix or 'a file without ending'}"
    )
