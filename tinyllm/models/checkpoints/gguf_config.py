"""GGUF metadata and tensor names in Hugging Face's terms. Families: llama and qwen2.

Keys under the architecture's prefix are either understood, known to change nothing, or refused by name.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.gguf import GgufFile
from tinyllm.models.families.ranges import integer_expected, is_integer, is_number, number_expected

ARCHITECTURES = ("llama", "qwen2")

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
# Keys whose numbers have a range of their own, by the field of `config.json` that has it.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "rope.scaling.factor": "factor",
    "rope.scale_linear": "factor",
    "rope.scaling.attn_factor": "attention_factor",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
ROPE_FACTORS = "rope_freqs.weight"

_READ = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
_HARMLESS = {"tensor_data_layout", "rope.scaling.finetuned"}  # they tell where numbers came from
# Keys that change nothing at these values; at any other the model would be another one.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "use_parallel_residual": (False,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "pooling_type": (0,),
    "nextn_predict_layers": (0,),
}


def hf_name(name: str) -> str | None:
    """`blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`; None for a name that no family here has."""
    stem, _, ending = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{ending}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{ending}"
    return None


def rope_rows(name: str, rows: int, config: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.intp]] | None:
    """The order in which to take a tensor's `rows` so that they are Hugging Face's; None where they are already.

    Family llama's files keep q and k for interleaved rotation: in a head, row 2i is Hugging Face's row i and 2i + 1 its
    row i + D/2.
    Raises `CheckpointError` where the rows are not those of the config's heads.
    """
    if config["model_type"] != "llama" or not (".attn_q." in name or ".attn_k." in name):
        return None
    heads, head_dim = config["num_attention_heads" if ".attn_q." in name else "num_key_value_heads"], config["head_dim"]
    if rows != heads * head_dim or head_dim % 2:
        raise CheckpointError(f"{name}: expected {heads} heads of {head_dim} rows, an even number, got {rows} rows")
    return np.arange(rows).reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def to_hf_config(file: GgufFile) -> dict[str, Any]:
    """The `config.json` that the file's metadata and tensors amount to.

    Raises `CheckpointError` for an architecture, key or value that is missing, of the wrong kind or not understood.
    """
    reader = _Metadata(file)
    reader.refuse_unknown()
    heads, hidden = reader.integer("attention.head_count"), reader.integer("embedding_length")
    head_dim = reader.integer("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (got := reader.integer(key, head_dim)) != head_dim:
            raise reader.fail(key, f"the head size {head_dim}", got)
    config: dict[str, Any] = {
        "model_type": reader.architecture,
        "vocab_size": reader.vocab_size(),
        "hidden_size": hidden,
        "intermediate_size": reader.integer("feed_forward_length"),
        "num_hidden_layers": reader.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": reader.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": reader.integer("context_length"),
        "rms_norm_eps": reader.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": reader.number("rope.freq_base", 10000.0),
        "rope_scaling": reader.rope_scaling(head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    biased = {name.split(".")[2] for name in file.tensors if name.startswith("blk.") and name.endswith(".bias")}
    if reader.architecture == "llama":
        config["attention_bias"] = bool(biased & {"attn_q", "attn_k", "attn_v", "attn_output"})
        config["mlp_bias"] = bool(biased & {"ffn_gate", "ffn_up", "ffn_down"})
    for key, field in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")):
        config[field] = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    return config


class _Metadata:
    """The keys under the architecture's prefix, read with their kinds checked."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.architecture = file.metadata.get("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{file.path}: general.architecture: expected one of {', '.join(ARCHITECTURES)}, got "
                f"{quoted(self.architecture)}"
            )

    def fail(self, key: str, expected: str, got: object) -> CheckpointError:
        return CheckpointError(
            f"{self.file.path}: {self.architecture}.{key}: expected {expected}, got {shortened(got)}"
        )

    def get(self, key: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"{self.architecture}.{key}", default)

    def refuse_unknown(self) -> None:
        prefix = f"{self.architecture}."
        for key in (full.removeprefix(prefix) for full in self.file.metadata if full.startswith(prefix)):
            if key in _READ or key in _HARMLESS:
                continue
            if key not in _NEUTRAL:
                raise CheckpointError(
                    f"{self.file.path}: {prefix}{shortened(key)}: tinyllm does not know this key, and it may change "
                    f"the output"
                )
            if self.get(key) not in _NEUTRAL[key]:
                raise self.fail(key, " or ".join(map(str, _NEUTRAL[key])), self.get(key))

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        field = _FIELDS.get(key, key)
        if not is_integer(field, value):
            raise self.fail(key, integer_expected(field), "nothing" if value is None else value)
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not is_number(_FIELDS[key], value):
            raise self.fail(key, number_expected(_FIELDS[key]), "nothing" if value is None else value)
        return float(str(np.float32(value)))  # the file keeps float32: 9.999999747378752e-06 was written as 1e-05

    def vocab_size(self) -> int:
        table = self.file.tensors.get("token_embd.weight")
        if table is None or len(table.shape) != 2:
            raise CheckpointError(
                f"{self.file.path}: token_embd.weight: expected an embedding matrix, got {table and list(table.shape)}"
            )
        if (stated := self.integer("vocab_size", table.shape[0])) != table.shape[0]:
            raise self.fail("vocab_size", f"the {table.shape[0]} rows of token_embd.weight", stated)
        return table.shape[0]

    def rope_scaling(self, head_dim: int) -> dict[str, Any] | None:
        kind = self.get("rope.scaling.type", "none")
        if ROPE_FACTORS in self.file.tensors:
            if kind != "none":
                raise self.fail("rope.scaling.type", f"none beside {ROPE_FACTORS}", kind)
            return self._llama3(head_dim)
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        attention = self.number("rope.scaling.attn_factor", 1.0) * self.number("rope.scaling.yarn_attn_factor", 1.0)
        if kind == "yarn":
            scaling = {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": self.integer("rope.scaling.original_context_length"),
                "beta_fast": self.number("rope.scaling.yarn_beta_fast", 32.0),
                "beta_slow": self.number("rope.scaling.yarn_beta_slow", 1.0),
            }
            # llama.cpp multiplies YaRN's own attention factor by this one, Hugging Face's key replaces it
            return (
                scaling if attention == 1 else scaling | {"attention_factor": attention * (0.1 * math.log(factor) + 1)}
            )
        if attention != 1:
            raise self.fail("rope.scaling.attn_factor", f"1 for scaling type {kind}", attention)
        if kind == "linear" or (kind == "none" and self.get("rope.scale_linear") is not None):
            return {"rope_type": "linear", "factor": factor}
        if kind != "none":
            raise self.fail("rope.scaling.type", "none, linear or yarn", kind)
        return None

    def _llama3(self, head_dim: int) -> dict[str, Any]:
        """Llama 3.1's scaling from the divisors that the file keeps in `rope_freqs.weight`, float32 `[D / 2]`.

        The divisors do not tell the settings apart, so they are made again from Meta's published ones and held against
        the file.
        """
        tensor = self.file.tensors[ROPE_FACTORS]
        if tensor.kind != "F32" or tensor.shape != (head_dim // 2,):
            raise CheckpointError(
                f"{self.file.path}: {ROPE_FACTORS}: expected F32 [{head_dim // 2}], got {tensor.kind} "
                f"{list(tensor.shape)}"
            )
        divisors = np.frombuffer(self.file.map, "<f4", head_dim // 2, tensor.start)
        factor = float(divisors.max())
        low, high, original = 1.0, 4.0, 8192
        turns = (
            original * self.number("rope.freq_base", 10000.0) ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
        )
        ramp = np.clip((turns - low) / (high - low), 0, 1)
        if not (factor > 0 and np.allclose(divisors, 1 / ((1 - ramp) / factor + ramp), rtol=1e-3)):
            raise CheckpointError(
                f"{self.file.path}: {ROPE_FACTORS}: expected Llama 3's divisors (low 1, high 4, original context "
                f"8192), got others"
            )
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
