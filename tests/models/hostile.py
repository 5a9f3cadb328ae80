"""A tiny model with whatever config or header, and how loading it must end."""

from __future__ import annotations

import json
import struct
import time
import warnings
from pathlib import Path
from typing import Any

from tests.models.conftest import byte_level_vocabulary
from tinyllm.errors import TinyllmError
from tinyllm.llm import load

SECONDS, LINE = 5, 2000
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": len(byte_level_vocabulary()),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "beta_slow": 1, "beta_fast": 32}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
del LLAMA3["beta_slow"], LLAMA3["beta_fast"]


def survive(path: Path) -> str:
    """Load a model and run it, as far as it goes; the error that ended it."""
    start = time.process_time()
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, which would come before the line for people
        try:
            llm = load(path, "numpy")
            llm.logits([1, 2])
            assert llm.stop_token_ids is not None and llm.engine_for_one() is not None
        except TinyllmError as error:
            message = str(error)
    assert time.process_time() - start < SECONDS
    assert len(message) < LINE and "\n" not in message
    return message


def survive_config(folder: Path, config: dict[str, Any]) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return survive(folder)


def written(path: Path, header: dict[str, Any] | bytes, data: bytes = b"") -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
