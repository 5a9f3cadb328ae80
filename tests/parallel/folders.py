"""Tiny checkpoints that answer in text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from tests.llm.families.harness import Tiny

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
LLAMA = Tiny("Llama", SIZES)


def talking_llama(folder: Path) -> Path:
    """A llama of 4 heads, and bytes for tokens."""
    LLAMA.save(folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:97]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({text: token for token, text in enumerate(alphabet)}, []))
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    return folder
