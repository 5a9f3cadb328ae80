"""A GGUF file as a folder in Hugging Face form, for peers that read no other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tinyllm.catalogue import CATALOGUE
from tinyllm.models.checkpoints.model_weights import ModelWeights
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families.families import FAMILIES, family_of
from tinyllm.models.open_model import open_model
from tinyllm.registry.registry import default_registry
from tinyllm.spec.quantized import dense


def write_folder(model: Path, folder: Path) -> None:
    """Write the `config.json` and the tensors, in float32, of a GGUF file, with the names that folders of its family
    have; of several, those that the published ones have."""
    from safetensors.numpy import save_file

    families = (*FAMILIES, *default_registry().plugins.families)
    opened = open_model(model, families)
    shapes = decoder(opened.config, CATALOGUE).tensors()
    weights = opened.weights(shapes)
    family = family_of(opened.checkpoint.config, families)
    layout = ModelWeights(opened.checkpoint, family.tensors, opened.config, shapes)
    tensors = layout.laid_out(lambda name: np.asarray(dense(np, weights.read(name), np.float32), np.float32))
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(opened.checkpoint.config), encoding="utf-8")
