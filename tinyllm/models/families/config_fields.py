"""Fields of a `config.json` read with their kinds checked, and every field accounted for: understood, harmless, or
refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.errors import CheckpointError, FieldError, quoted, shortened
from tinyllm.models.families.ranges import integer_expected, is_integer, is_number, number_expected

# Fields that say nothing about what the model computes at inference: training (dropout among it), provenance, the code
# that runs the model (`auto_map` names one, `attn_implementation` a kernel), lengths that are not
# `max_position_embeddings`, and transformers' own bookkeeping.
HARMLESS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "_commit_hash",
        "_flash_attn_2_enabled",
        "_model_name_or_path",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_implementation",
        "auto_map",
        "bad_words_ids",
        "base_model_name_or_path",
        "begin_suppress_tokens",
        "bf16",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "embd_pdrop",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "fp16",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "is_llama_config",
        "keys_to_ignore_at_inference",
        "label2id",
        "length_penalty",
        "low_cpu_mem_usage",
        "max_length",
        "max_seq_length",
        "max_sequence_length",
        "min_length",
        "model_max_length",
        "model_type",
        "name_or_path",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "seq_length",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
        "use_flash_attention",
        "use_flash_attention_2",
        "use_flash_attn",
        "use_flash_attn_2",
        "use_return_dict",
        "use_sdpa",
    }
)


def fail(field: str, expected: str, got: object) -> CheckpointError:
    """The one wording: `config: <field>: expected <expected>, got <got>`."""
    return FieldError(f"config: {field}: expected {expected}, got {quoted(got)}", field.partition(".")[0])


class ConfigFields:
    """A config that remembers which fields were read, so that `finish` can refuse the rest by name. None counts as
    missing."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._seen = set(HARMLESS)

    def get(self, field: str, default: Any = None) -> Any:
        """The field as it stands, `default` where it is missing or None."""
        self._seen.add(field)
        value = self._config.get(field)
        return default if value is None else value

    def is_null(self, field: str) -> bool:
        """Whether the field is there and says null, where that is not the same as if it were missing."""
        return field in self._config and self.get(field) is None

    def integer(self, field: str, default: int | None = None) -> int:
        """A positive integer in the range of the field."""
        value = self.get(field, default)
        if not is_integer(field, value):
            raise fail(field, integer_expected(field), value)
        return int(value)

    def number(self, field: str, default: float | None = None) -> float:
        """A number in the range of the field."""
        value = self.get(field, default)
        if not is_number(field, value):
            raise fail(field, number_expected(field), value)
        return float(value)

    def flag(self, field: str, default: bool) -> bool:
        """True or False."""
        value = self.get(field, default)
        if not isinstance(value, bool):
            raise fail(field, "true or false", value)
        return value

    def only(self, field: str, *allowed: Any) -> None:
        """Refuses a field that is there with a value other than the allowed ones, which change nothing."""
        value = self.get(field)
        if value is not None and value not in allowed:
            raise fail(field, " or ".join(map(repr, allowed)), value)

    def changed(self, values: Mapping[str, Any]) -> ConfigFields:
        """The config with other values; what is read there is read here as well."""
        other = ConfigFields({**self._config, **values})
        other._seen = self._seen
        return other

    def ignore(self, *fields: str) -> None:
        """Fields that mean nothing given what was read before."""
        self._seen.update(fields)

    def token_ids(self, field: str) -> tuple[int, ...]:
        """No, one or several token ids: an integer, a list of them, or None."""
        value = self.get(field, [])
        ids = value if isinstance(value, list) else [value]
        if not all(is_integer("token id", token) for token in ids):
            raise fail(field, "a token id or a list of them", value)
        return tuple(ids)

    def fail(self, field: str, expected: str, got: object) -> CheckpointError:
        """The error of a field."""
        return fail(field, expected, got)

    def finish(self) -> None:
        """Raises `CheckpointError` for a field with a value that nobody read and that is not known to be harmless."""
        unread = [field for field, value in self._config.items() if field not in self._seen and value is not None]
        if unread:
            raise FieldError(
                f"config: {shortened(unread[0])}: tinyllm does not know this field (got "
                f"{quoted(self._config[unread[0]])}) and it may change the model's output; set it to null where it "
                f"does not",
                *unread,
            )
