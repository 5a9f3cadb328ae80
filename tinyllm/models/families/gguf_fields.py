"""The metadata of a GGUF file read with its kinds checked, and every key of its architecture accounted for: understood,
harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from tinyllm.errors import CheckpointError, FieldError, shortened
from tinyllm.models.checkpoints.gguf_header import GgufHeader
from tinyllm.models.families.ranges import integer_expected, is_integer, is_number, number_expected

# Keys whose numbers have a range of their own, by the field of `config.json` that has it.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_theta",
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "expert_weights_scale": "routed_scaling_factor",
    "leading_dense_block_count": "first_k_dense_replace",
    "nextn_predict_layers": "num_nextn_predict_layers",
    "expert_shared_feed_forward_length": "shared_intermediate_size",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
    "rope.scaling.factor": "factor",
    "rope.scale_linear": "factor",
    "rope.scaling.attn_factor": "attention_factor",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
    "rope.scaling.yarn_log_multiplier": "mscale_all_dim",
    "attention.temperature_scale": "llama_4_scaling_beta",
}
# They tell where numbers came from, and what the file was made for.
_HARMLESS = {"tensor_data_layout", "rope.scaling.finetuned"}
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


class GgufFields:
    """The keys under the architecture's prefix; `finish` refuses those that nobody read.

    Raises `CheckpointError`, as all of its methods do, for values that are missing or of the wrong kind.

    without: keys that are taken to be missing.
    """

    def __init__(self, file: GgufHeader, without: Collection[str] = ()) -> None:
        self.file, self._without = file, without
        self.architecture = str(file.metadata.get("general.architecture"))
        self._seen = set(_HARMLESS)

    @property
    def asked(self) -> frozenset[str]:
        """The keys that a reader asked for, or that it knows."""
        return frozenset(self._seen)

    def fail(self, key: str, expected: str, got: object) -> CheckpointError:
        """The one wording: `<file>: <architecture>.<key>: expected <expected>, got <got>`."""
        return FieldError(
            f"{self.file.path}: {self.architecture}.{key}: expected {expected}, got {shortened(got)}", key
        )

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands, `default` where there is none."""
        self._seen.add(key)
        return default if key in self._without else self.file.metadata.get(f"{self.architecture}.{key}", default)

    def ignore(self, *keys: str) -> None:
        """Keys that mean nothing given what was read before."""
        self._seen.update(keys)

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer in the range of the key."""
        value = self.get(key, default)
        field = _FIELDS.get(key, key)
        if not is_integer(field, value):
            raise self.fail(key, integer_expected(field), "nothing" if value is None else value)
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A number in the range of the key."""
        value = self.get(key, default)
        field = _FIELDS.get(key, key)
        if not is_number(field, value):
            raise self.fail(key, number_expected(field), "nothing" if value is None else value)
        return float(str(np.float32(value)))  # the file keeps float32: 9.999999747378752e-06 was written as 1e-05

    def has_tensor(self, name: str) -> bool:
        """Whether some layer has a tensor, named as within it: `attn_q.bias`."""
        return any(full.endswith(f".{name}") for full in self.file.tensors)

    def biases(self) -> dict[str, bool]:
        """The `attention_bias` and `mlp_bias` of a `config.json`: whether products of some layer have biases."""
        parts = {"attention_bias": "attn_q attn_k attn_v attn_output", "mlp_bias": "ffn_gate ffn_up ffn_down"}
        return {field: any(self.has_tensor(f"{name}.bias") for name in names.split()) for field, names in parts.items()}

    def vocab_size(self) -> int:
        """The rows of the embedding."""
        table = self.file.tensors.get("token_embd.weight")
        if table is None or len(table.shape) != 2:
            raise CheckpointError(
                f"{self.file.path}: token_embd.weight: expected an embedding matrix, got {table and list(table.shape)}"
            )
        if (stated := self.integer("vocab_size", table.shape[0])) != table.shape[0]:
            raise self.fail("vocab_size", f"the {table.shape[0]} rows of token_embd.weight", stated)
        return table.shape[0]

    def finish(self) -> None:
        """Raises `CheckpointError` for a key that nobody read and that is not known to change nothing."""
        prefix = f"{self.architecture}."
        keys = (full.removeprefix(prefix) for full in self.file.metadata if full.startswith(prefix))
        unread = [key for key in keys if key not in self._seen and key not in self._without]
        if unknown := [key for key in unread if key not in _NEUTRAL]:
            raise FieldError(
                f"{self.file.path}: {prefix}{shortened(unknown[0])}: tinyllm does not know this key, and it may change "
                f"the output",
                *unknown,
            )
        for key in unread:
            if (value := self.get(key)) not in _NEUTRAL[key]:
                raise self.fail(key, " or ".join(map(str, _NEUTRAL[key])), value)
