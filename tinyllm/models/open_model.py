"""Opens a model: its checkpoint, its config, and where its weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinyllm.models.checkpoints.checkpoint import Checkpoint, check_layers
from tinyllm.models.checkpoints.files import read_json
from tinyllm.models.checkpoints.folder_quantization import take_quantization
from tinyllm.models.checkpoints.model_weights import ModelWeights, has_tied_head
from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.families import FAMILIES, decoder_config, family_of
from tinyllm.models.families.family import Family
from tinyllm.models.families.tensor_rules import TensorRule


@dataclass(frozen=True)
class OpenModel:
    """A checkpoint with what its family makes of it.

    tied_by_file: the embedding is the head as well though the config does not say so, as the file has it twice.
    """

    checkpoint: Checkpoint
    config: DecoderConfig
    rules: tuple[TensorRule, ...]
    skipped: tuple[str, ...] = ()
    tied_by_file: bool = False

    def weights(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelWeights:
        """The weights of its graph, whose names and shapes `Graph.tensors` gives."""
        return ModelWeights(self.checkpoint, self.rules, self.config, shapes, self.skipped)


def open_model(path: Path, families: Sequence[Family] = FAMILIES) -> OpenModel:
    """A folder in Hugging Face form, a `.safetensors` file inside one, or a `.gguf` file. No weight is loaded.

    Raises:
        ModelNotFoundError, CheckpointError: as `open_checkpoint` and `decoder_config` do.
    """
    checkpoint = open_checkpoint(path, families)
    config = decoder_config(checkpoint.config, families)
    check_layers(checkpoint, config.num_layers)
    family = family_of(checkpoint.config, families)
    rules = family.rules(checkpoint.format)
    tied = has_tied_head(checkpoint, rules, config.tie_word_embeddings)
    skipped = tuple(beginning.replace("{layers}", str(config.num_layers)) for beginning in family.skipped)
    tied_by_file = tied and not config.tie_word_embeddings
    return OpenModel(checkpoint, replace(config, tie_word_embeddings=tied), rules, skipped, tied_by_file)


def has_weights(path: Path) -> bool:
    """Whether a path is more than a folder with a `config.json`."""
    return not path.is_dir() or any(path.glob("*.safetensors"))


def open_config(folder: Path, families: Sequence[Family] = FAMILIES) -> DecoderConfig:
    """What the `config.json` of a folder says by itself; how the embedding and the head are tied, too.

    Raises:
        CheckpointError: as `decoder_config` does, and for a quantization that is not understood.
    """
    config = read_json(folder / "config.json")
    take_quantization(config, folder)
    return decoder_config(config, families)
