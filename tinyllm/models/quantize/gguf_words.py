"""What a folder says besides its config and tensors, as the metadata of a GGUF file: its name, how to sample, its
tokenizer and its chat templates."""

from __future__ import annotations

from typing import Any

from tinyllm.errors import shortened
from tinyllm.models.checkpoints.checkpoint import Checkpoint
from tinyllm.models.checkpoints.gguf_sampling import from_generation_config
from tinyllm.models.checkpoints.safetensors import SafetensorsCheckpoint
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.text.gguf_tokenizer import tokenizer_to_gguf
from tinyllm.models.text.tokenizer_folder import has_tokenizer


def words_of(checkpoint: Checkpoint, config: DecoderConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Values by key, and what of it a GGUF file does not say as the folder does.

    Raises `CheckpointError` for a tokenizer that GGUF has no form for, and for a setting of the wrong kind.
    """
    made: dict[str, Any] = {"general.type": "model", "general.name": checkpoint.name}
    said, source = checkpoint.generation_config()
    sampling, without = from_generation_config(said, str(checkpoint.path / source), config.max_position)
    made |= sampling
    lost = [f"GGUF has no key for these settings of {source}: {', '.join(map(shortened, without))}"] if without else []
    if isinstance(checkpoint, SafetensorsCheckpoint) and not has_tokenizer(checkpoint.folder):
        ids = {"bos": config.bos_token_id, "eos": next(iter(config.eos_token_ids), None)}
        made |= {f"tokenizer.ggml.{key}_token_id": index for key, index in ids.items() if index is not None}
        return made, (*lost, "no tokenizer, as the folder has none: llama.cpp loads no such file")
    words, notes = tokenizer_to_gguf(
        checkpoint.tokenizer(), checkpoint.chat_template(), config.vocab_size, str(checkpoint.path)
    )
    return made | words, (*lost, *notes)
